import sys

from detseg.cli import main

if __name__ == "__main__":
    main(["embed", *sys.argv[1:]])

import sys

from detseg.cli import main

if __name__ == "__main__":
    main(["bias", *sys.argv[1:]])

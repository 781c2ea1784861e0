import sys

from detseg.cli import main

if __name__ == "__main__":
    main(["draw", *sys.argv[1:]])

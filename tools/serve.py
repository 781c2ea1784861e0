import sys

from detseg.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])

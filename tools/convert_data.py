import sys

from detseg.cli import main

if __name__ == "__main__":
    main(["convert-data", *sys.argv[1:]])

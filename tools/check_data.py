from detseg.cli import check

if __name__ == "__main__":
    check()

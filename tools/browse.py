from detseg.cli import browse

if __name__ == "__main__":
    browse()

from detseg.cli import truncate

if __name__ == "__main__":
    truncate()

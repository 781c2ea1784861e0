from detseg.cli import publish

if __name__ == "__main__":
    publish()

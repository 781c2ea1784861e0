from detseg.cli import probe

if __name__ == "__main__":
    probe()

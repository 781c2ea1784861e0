from detseg.cli import models

if __name__ == "__main__":
    models()

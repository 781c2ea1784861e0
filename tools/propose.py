from detseg.cli import propose

if __name__ == "__main__":
    propose()

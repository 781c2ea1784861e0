from detseg.cli import visualize

if __name__ == "__main__":
    visualize()

from detseg.cli import heatmap

if __name__ == "__main__":
    heatmap()

from detseg.cli import convert_data

if __name__ == "__main__":
    convert_data()

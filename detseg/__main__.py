"""`python -m detseg COMMAND ...`, also for torchrun's `-m`."""

from detseg.cli import main

if __name__ == "__main__":
    main()

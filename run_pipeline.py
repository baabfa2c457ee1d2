"""Train a CTC line recogniser on labelled images, and read a collection with it: see README.md."""

from pipeline.start import command

if __name__ == "__main__":
    command()

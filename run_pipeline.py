"""Train a CTC line recogniser on labelled images, and read a collection with it: see README.md."""

import sys

from pipeline.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Entry point of `python -m model.sampling`."""

import sys

from model.sampling.command import main

if __name__ == "__main__":
    sys.exit(main())

"""python -m orthohash_triton: the command line, for torchrun and where the script `orthohash` is not on the path."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Run the command line: `python -m orthohash_triton.cli`."""

import sys

from . import main

sys.exit(main())

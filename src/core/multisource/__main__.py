"""`python -m core.multisource`."""

import sys

from core.multisource.cli import main

if __name__ == "__main__":
    sys.exit(main())

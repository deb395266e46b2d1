"""`python -m core.batch`."""

import sys

from core.batch.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m core.batch`."""

import sys

from core.batch.cli import main
from core.batch.workers import interrupt_on_signals

if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(main())

"""Which kind of place an address of results means."""

from pathlib import Path

from core.batch.folder import Folder
from core.batch.results import Results


def results_at(place: str) -> Results:
    """Return the results at a path."""
    return Folder(str(Path(place).resolve()))

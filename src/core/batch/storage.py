"""Which kind of place an address of results means."""

from pathlib import Path

from core.batch.bucket import Bucket
from core.batch.folder import Folder
from core.batch.results import Results


def is_address(place: str) -> bool:
    """Return whether it names a place on a server, and none on a disk."""
    return "://" in place


def results_at(place: str) -> Results:
    """Return the results at a path, or at `s3://bucket/prefix`.

    Raises:
        Refused: it is an address of another kind.
    """
    return Bucket(place) if is_address(place) else Folder(str(Path(place).resolve()))

"""Which kind of place an address of results means."""

import re
from pathlib import Path

from core.batch.bucket import Bucket
from core.batch.folder import Folder
from core.batch.results import Results
from core.command import Refused


def is_address(place: str) -> bool:
    """Return whether it names a place on a server, and none on a disk.

    Raises:
        Refused: it looks like one, and is none.
    """
    if re.match(r"[a-z0-9]{2,}:/(?!/)", place):
        raise Refused(f"want s3://bucket/prefix or a folder, got {place}")
    return "://" in place


def results_at(place: str) -> Results:
    """Return the results at a path, or at `s3://bucket/prefix`.

    Raises:
        Refused: it is an address of another kind.
    """
    return Bucket(place) if is_address(place) else Folder(str(Path(place).resolve()))

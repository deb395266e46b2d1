"""Results on a disk, local or shared: a folder is renamed into place, a lock is a file's."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from core.batch.results import DONE, Results
from core.command import Refused
from core.files import write_bytes


class Folder(Results):
    """Results below a path."""

    @property
    def work(self) -> Path:
        """Where tasks are executed: on the same disk, so that a rename is all that is left."""
        return self._path("work")

    def names(self, room: str = "") -> set[str]:
        """Return what stands in a room, without what file managers hide there."""
        try:
            return {name for name in os.listdir(self._path(room)) if not name.startswith(".")}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def read(self, path: str) -> bytes | None:
        """Return a file, None where there is none."""
        try:
            return self._path(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        whole = self._path(path)
        whole.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(whole, data)

    def put(self, scratch: Path, room: str, key: str) -> None:
        """Rename the folder into a room."""
        target = self._path(f"{room}/{key}")
        target.parent.mkdir(exist_ok=True)
        if room != DONE:
            self.drop(room, key)
        try:
            os.rename(scratch, target)
        except OSError:
            if not target.exists():  # else another process was first, and its result stays
                raise

    def drop(self, room: str, key: str) -> None:
        """Remove what stands under the key."""
        shutil.rmtree(self._path(f"{room}/{key}"), ignore_errors=True)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[Path | None]:
        """Hold the lock of the task; what a dead process left is cleared away."""
        self.work.mkdir(exist_ok=True)
        scratch, path = self.work / key, self.work / f"{key}.lock"
        with path.open("a") as lock:
            if not _locked(lock, path):
                yield None
                return
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
                path.unlink(missing_ok=True)  # while it is held: see `_locked`

    def in_work(self) -> set[str]:
        """Return the keys whose lock is held."""
        return {path.stem for path in self.work.glob("*.lock") if _is_held(path)}

    def _path(self, below: str) -> Path:
        return Path(self.place, below)


def _locked(lock: IO[str], path: Path) -> bool:
    """Lock the file unless another process has; a file that was unlinked meanwhile is none."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        raise Refused(f"cannot lock {path}: {error.strerror}: take another disk") from error


def _is_held(path: Path) -> bool:
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False

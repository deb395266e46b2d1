"""Results in a bucket: the seal decides which attempt is the result, a lease keeps others away.

    done/KEY/HASH/NAME      a file of a result, below its own hash: no other attempt overwrites it
    done/KEY/seal.json      written last, and only where there is none: with it, the task is done
    failed/KEY/NAME         what is kept of a task that failed
    work/KEY.lease          who executes the task writes it again and again

A lease that was not renewed for LEASE seconds is another's to take. Its owner may yet live, and
finish: a task can be executed twice, but of two results the second is dropped.
"""

import contextlib
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.batch.objects import AT_ONCE, Objects
from core.batch.records import Record
from core.batch.results import DONE, SEAL, Results
from core.command import Refused

LEASE = 20.0  # seconds
BEAT = 4.0  # seconds from one renewal to the next: one that fails costs nothing
WORK, SUFFIX = "work/", ".lease"


class Bucket(Results):
    """Results below `s3://bucket/prefix`."""

    def __init__(self, place: str) -> None:
        """Name the place; nothing is read or written."""
        self.objects = Objects.at(place)
        super().__init__(self.objects.address)

    def open(self) -> None:
        """Begin the folder, or go on with it.

        Raises:
            Refused: as any folder; or the server writes whatever the condition.
        """
        super().open()
        name, data = "format.json", self.read("format.json") or b""
        if self.objects.create(name, data) or self.objects.replace(name, data, '"none"'):
            why = "the server knows no conditional writes (If-None-Match, If-Match)"
            raise Refused(f"{self.place}: {why}: without them clients would overwrite each other")

    def names(self, room: str = "") -> set[str]:
        """Return what stands in a room; of results, those that are sealed."""
        if room != DONE:
            return self.objects.names(f"{room}/" if room else "")
        paths = [path.split("/") for path in self.objects.below(f"{DONE}/")]
        return {path[1] for path in paths if path[2:] == [SEAL]}

    def read(self, path: str) -> bytes | None:
        """Return a file, None where there is none."""
        found = self.objects.get(path)
        return found.data if found else None

    def write(self, path: str, data: bytes) -> None:
        """Write a file, which storage does whole or not at all."""
        self.objects.put(path, data)

    def path_of(self, key: str, name: str, sealed: str) -> str:
        """Return where a file of a result stands, from what its seal says of it."""
        return f"{DONE}/{key}/{sealed[:16]}/{name}"

    def records(self, keys: Iterable[str]) -> Iterator[tuple[str, Record]]:
        """Yield the records of results, read side by side: each takes two answers of the server."""
        keys = list(keys)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from zip(keys, pool.map(self.record, keys), strict=True)

    def put(self, scratch: Path, room: str, key: str) -> None:
        """Upload a folder, its seal last, and remove what other attempts left."""
        files = {path.name: path.read_bytes() for path in sorted(scratch.iterdir())}
        if room == DONE:
            self._seal_up(key, files)
            kept = {f"{DONE}/{key}/{SEAL}"}
            kept |= {self.path_of(key, name, sealed) for name, sealed in self._seal(key).items()}
        else:
            kept = {f"{room}/{key}/{name}" for name in files}
            self._drop(f"{room}/{key}/{SEAL}")
            for name in sorted(files, key=SEAL.__eq__):
                self.write(f"{room}/{key}/{name}", files[name])
        self._drop(f"{room}/{key}/", but=kept)

    def drop(self, room: str, key: str) -> None:
        """Remove what stands under the key."""
        self._drop(f"{room}/{key}/")

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[Path | None]:
        """Hold the lease of the task, and renew it; the folder is on the disk of this machine."""
        path = f"{WORK}{key}{SUFFIX}"
        etag = self.objects.create(path, _token()) or self._taken(path)
        if etag is None:
            yield None
            return
        heart = _Heart(self.objects, path, etag)
        heart.start()
        try:
            with tempfile.TemporaryDirectory(prefix="task-") as scratch:
                yield Path(scratch)
        finally:
            heart.stop()

    def in_work(self) -> set[str]:
        """Return the keys whose lease is fresh."""
        ages = self.objects.below(WORK)
        fresh = [path for path, age in ages.items() if age <= LEASE]
        return {path.removeprefix(WORK).removesuffix(SUFFIX) for path in fresh}

    def _seal_up(self, key: str, files: dict[str, bytes]) -> None:
        seal = files.pop(SEAL)
        for name, sealed in json.loads(seal)["files"].items():
            self.write(self.path_of(key, name, sealed), files[name])
        while not self.objects.create(f"{DONE}/{key}/{SEAL}", seal) and not self.is_done(key):
            time.sleep(0.1)  # another client writes it just now, and may fail

    def _taken(self, path: str) -> str | None:
        """Take over a lease that was not renewed in time; of several clients, one succeeds."""
        held = self.objects.get(path)
        stale = held is not None and held.age > LEASE
        return self.objects.replace(path, _token(), held.etag) if held and stale else None

    def _drop(self, folder: str, but: Iterable[str] = ()) -> None:
        for path in self.objects.below(folder).keys() - set(but):
            self.objects.delete(path)


class _Heart(threading.Thread):
    """Renews a lease while its task is executed, as long as nobody has taken it."""

    def __init__(self, objects: Objects, path: str, etag: str) -> None:
        super().__init__(daemon=True)
        self.objects, self.path, self.etag = objects, path, etag
        self.renewed = time.monotonic()
        self.ended = threading.Event()

    def run(self) -> None:
        """Renew it; where the server does not answer, it may the next time."""
        while not self.ended.wait(BEAT):
            began = time.monotonic()
            with contextlib.suppress(Refused):
                etag = self.objects.replace(self.path, _token(), self.etag)
                if etag is None:
                    return
                self.etag, self.renewed = etag, began

    def stop(self) -> None:
        """Give the lease back, if it is fresh: else it may be another's by now."""
        self.ended.set()
        self.join()
        if time.monotonic() - self.renewed < LEASE / 2:
            with contextlib.suppress(Refused):  # then it ages, and that is all
                self.objects.delete(self.path)


def _token() -> bytes:
    """Return what no other lease holds, so that each has an etag of its own."""
    return uuid.uuid4().hex.encode()

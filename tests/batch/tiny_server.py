"""A server of S3-compatible storage as a process of its own: moto's."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tiny_cluster import until

RUNNING = re.compile(r"Running on (http://\S+)")
ASKING = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret"}
NOWHERE = {  # nothing that this machine knows of a real server is used
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def a_server(folder: Path) -> Iterator[str]:
    """Start the server, give its address, and stop it at the end."""
    log = folder / "log"
    with log.open("wb") as said:
        process = _started(said)
    try:
        until(lambda: RUNNING.search(log.read_text()) or process.poll() is not None)
        found = RUNNING.search(log.read_text())
        assert found, log.read_text()
        yield found[1]
    finally:
        process.terminate()
        process.wait(60)


def _started(said: IO[bytes]) -> subprocess.Popen:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    env = {**os.environ, **NOWHERE, **ASKING}
    return subprocess.Popen(command, stdout=said, stderr=said, env=env)

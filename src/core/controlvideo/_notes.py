"""What the library warns of, as notes of the command line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def notes() -> Iterator[None]:
    """Show the library's warnings for a while: on standard error, each once, as `note: ...`."""
    log, handler, told = logging.getLogger(__package__), logging.StreamHandler(), set()

    def is_new(record: logging.LogRecord) -> bool:
        message, before = record.getMessage(), len(told)
        told.add(message)
        return len(told) > before

    handler.addFilter(is_new)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    log.addHandler(handler)
    propagated, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagated

"""The objects of a bucket of S3-compatible storage: read, list, write on a condition, delete.

Where the server is, and who asks, boto3 finds out as ever: `AWS_ENDPOINT_URL`, `AWS_PROFILE`,
`AWS_ACCESS_KEY_ID` and so on, or its files. Whatever goes wrong is refused in one line.
"""

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple

from core.command import Refused

SCHEME = "s3://"
WAIT = 10  # seconds for an answer, of which there are as many as TRIES
TRIES = 3
AT_ONCE = 16  # requests, where there are many to make
GONE = {"NoSuchKey", "404"}
LOST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
UNKNOWN = {"NoSuchBucket"}
DENIED = {
    *("AccessDenied", "ExpiredToken", "Forbidden", "InvalidAccessKeyId", "InvalidToken"),
    *("SignatureDoesNotMatch", "401", "403"),
}


class Found(NamedTuple):
    """An object as it was read."""

    data: bytes
    etag: str
    age: float
    """Seconds since it was written, by the clock of the server alone."""


@dataclass(frozen=True)
class Objects:
    """The objects below a prefix; every path is relative to it."""

    bucket: str
    prefix: str
    """Empty, or it ends in a slash."""

    @classmethod
    def at(cls, address: str) -> "Objects":
        """Return those at `s3://bucket/prefix`; nothing is asked of the server.

        Raises:
            Refused: it names no bucket.
        """
        bucket, _, prefix = address.removeprefix(SCHEME).partition("/")
        if not address.startswith(SCHEME) or not bucket:
            raise Refused(f"{address}: want a folder, or {SCHEME}bucket/prefix")
        prefix = prefix.strip("/")
        return cls(bucket, f"{prefix}/" if prefix else "")

    @property
    def address(self) -> str:
        """Where they are, as a person types it."""
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def get(self, path: str) -> Found | None:
        """Return an object, None where there is none."""
        with self._refusing():
            try:
                answer = _client(WAIT).get_object(**self._named(path))
                data = answer["Body"].read()
            except _client_error() as error:
                if _code(error) in GONE:
                    return None
                raise
        return Found(data, answer["ETag"], _age(answer, answer["LastModified"]))

    def put(self, path: str, data: bytes) -> None:
        """Write an object over whatever stands there."""
        self._put(path, data, set())

    def create(self, path: str, data: bytes) -> str | None:
        """Write an object where there is none.

        Returns:
            Its etag; None where there is one already, or another client writes it just now.
        """
        return self._put(path, data, LOST, IfNoneMatch="*")

    def replace(self, path: str, data: bytes, etag: str) -> str | None:
        """Write an object over the one that has the etag.

        Returns:
            The new etag; None where another one stands there, or none.
        """
        return self._put(path, data, LOST | GONE, IfMatch=etag)

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        with self._refusing():
            _client(WAIT).delete_object(**self._named(path))

    def below(self, folder: str) -> dict[str, float]:
        """Return `path -> age in seconds` of all below a folder, whose name ends in a slash."""
        found = {}
        for page in self._pages(folder):
            for entry in page.get("Contents", ()):
                path = entry["Key"].removeprefix(self.prefix)
                found[path] = _age(page, entry["LastModified"])
        return found

    def names(self, folder: str) -> set[str]:
        """Return the objects and folders that stand in a folder, without those further below."""
        found = set()
        for page in self._pages(folder, Delimiter="/"):
            found |= {entry["Key"] for entry in page.get("Contents", ())}
            found |= {entry["Prefix"] for entry in page.get("CommonPrefixes", ())}
        return {name.removeprefix(self.prefix + folder).rstrip("/") for name in found} - {""}

    def _put(self, path: str, data: bytes, lost: set[str], **condition: str) -> str | None:
        with self._refusing():
            try:
                return _client(WAIT).put_object(**self._named(path), Body=data, **condition)["ETag"]
            except _client_error() as error:
                if _code(error) in lost:
                    return None
                raise

    def _pages(self, folder: str, **options: str) -> Iterator[dict[str, Any]]:
        with self._refusing():
            pages = _client(WAIT).get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self.bucket, Prefix=self.prefix + folder, **options)

    def _named(self, path: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + path}

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        errors = _module("botocore.exceptions")
        try:
            yield
        except (errors.ClientError, errors.BotoCoreError, ValueError) as error:
            why = " ".join(str(error).split())
            if isinstance(error, errors.ClientError):
                why = _refusal(_code(error), why)
            elif isinstance(error, errors.ConnectionError | errors.HTTPClientError):
                why = f"no server answers: {why}: see AWS_ENDPOINT_URL"
            elif isinstance(error, errors.NoCredentialsError | errors.PartialCredentialsError):
                why = f"{why}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise Refused(f"{self.address}: {why}") from error


@cache
def _client(wait: float) -> Any:
    """Return the client of this process; it may be used by several threads."""
    config = _module("botocore.config").Config(
        connect_timeout=wait,
        read_timeout=wait,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        max_pool_connections=AT_ONCE,
        # what AWS has added lately, other servers may lack
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return _module("boto3.session").Session().client("s3", config=config)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Refused(f"{SCHEME} needs boto3: pip install 'papers-executed[s3]'") from error


def _client_error() -> type[Exception]:
    return _module("botocore.exceptions").ClientError


def _code(error: Any) -> str:
    return error.response["Error"]["Code"]


def _refusal(code: str, why: str) -> str:
    if code in UNKNOWN:
        return "there is no such bucket: make it, or name another"
    if code in DENIED:
        return f"the server does not let you ({code}): see AWS_ACCESS_KEY_ID, AWS_PROFILE"
    return why


def _age(answer: Any, written: datetime) -> float:
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return (now - written).total_seconds()

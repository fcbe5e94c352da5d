"""Database: the SQLite file that gffutils makes of an annotation, with what it was made from written in it.

It is marked as made here in the file's own header (SQLite's application id), so that a file of anybody else is never
taken for one, nor replaced. Behind its last page, where SQLite does not look, stands a digest of all before, since
SQLite's own check does not see a changed value. As the file is never changed in place it is opened immutable: without
locks, journals or the right to write.

Layer: a `Product`.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import IO, Any
from urllib.parse import quote

import gffutils

from interlock.errors import Mismatch, RecordInvalid
from interlock.recipes._product import MISSING

_APPLICATION = 0x494C474E  # "ILGN"
_MAGIC, _HEADER_BYTES, _APPLICATION_AT = b"SQLite format 3\0", 100, 68
_DIGEST_BYTES, _CHUNK_BYTES = 32, 1 << 20
_PEEK = 1000  # lines of an annotation in which to look for genes and transcripts

Version = tuple[int, ...]


class Database:
    """The database of an annotation, for certain options of `gffutils.create_db`."""

    def __init__(self, path: str, annotation: str, options: dict[str, Any]) -> None:
        self.path = path
        self.annotation = annotation
        self.options = options
        self._told = json.dumps(options, sort_keys=True, default=_name)

    def version(self) -> Version:
        """What changes whenever the file is replaced."""
        found = os.stat(self.path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def flaw(self, path: str) -> str | None:
        """What is wrong with it. Raises `RecordInvalid` for what interlock has not made."""
        if not _is_ours(path):
            return MISSING
        if not _is_whole(path):
            return "damaged"
        try:
            with closing(_connect(path)) as connection:
                made = _record(connection)
                filled = connection.execute("SELECT 1 FROM features").fetchone()
        except (sqlite3.DatabaseError, TypeError) as error:  # of what an update left
            return f"incomplete ({error})"
        if not filled:
            return "empty"
        if made["options"] != self._told:
            return "made with other options"
        return None if _same(made, self.annotation) else "made from another content of the annotation"

    def make(self, aside: str) -> None:
        """Build it from the annotation."""
        made = _content(self.annotation) | {"options": self._told}
        with _sealed(aside) as connection:
            gffutils.create_db(self.annotation, connection, **_named_itself(self.annotation) | self.options)
            connection.execute("CREATE TABLE interlock (record TEXT)")
            connection.execute("INSERT INTO interlock VALUES (?)", [json.dumps(made)])

    def changed(self, fn: Callable[[Any], object], aside: str) -> None:
        """Make a copy that `fn` has changed."""
        with closing(self.open().conn) as old, _sealed(aside) as new:
            old.backup(new)
            fn(gffutils.FeatureDB(new))

    def open(self) -> Any:
        """A `gffutils.FeatureDB` that only reads. Raises `Mismatch` if the file was made with other options since."""
        if not _is_ours(self.path):
            raise FileNotFoundError(errno.ENOENT, "no database here any more; a new Genome builds it", self.path)
        connection = _connect(self.path)
        try:
            if _record(connection)["options"] != self._told:
                raise Mismatch(f"{self.path} was made with other options since: give each its own database=")
            return gffutils.FeatureDB(connection, pragmas={"query_only": 1})
        except BaseException:
            connection.close()
            raise


class Reader:
    """The open database of one thread, which opens the new one when the file was replaced."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._version: Version | None = None
        self._features: Any = None

    def look(self) -> Any:
        """A `gffutils.FeatureDB` on the file as it is now."""
        version = self._database.version()
        if version != self._version:
            self.close()
            self._features, self._version = self._database.open(), version
        return self._features

    def close(self) -> None:
        """Close the file. Another look opens it again."""
        if self._features is not None:
            self._features.conn.close()
        self._features = self._version = None


def _is_ours(path: str) -> bool:
    """Whether a database made here is there, whole or not; False if nothing is. Raises if something else is."""
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return False
    if header[_APPLICATION_AT:].startswith(_APPLICATION.to_bytes(4, "big")):
        return True
    if len(header) < _HEADER_BYTES and _MAGIC.startswith(header[: len(_MAGIC)]):
        return False  # empty, or cut off before it was anybody's database
    raise RecordInvalid(
        f"{path} is not a database that interlock made, so it is left alone: move it away, or give another database=",
        path=path,
        damage="foreign file",
    )


def _connect(path: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def _record(connection: sqlite3.Connection) -> Any:
    """What a database says it was made from."""
    return json.loads(connection.execute("SELECT record FROM interlock").fetchone()[0])


@contextmanager
def _sealed(path: str) -> Iterator[sqlite3.Connection]:
    """A new database to fill, which in the end is marked as made here: one file, without a journal, with its digest."""
    with closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute("PRAGMA journal_mode = DELETE")
    with open(path, "r+b") as file:
        file.write(_digest(file, os.path.getsize(path)))


def _is_whole(path: str) -> bool:
    """Whether a database still is what it was when it was sealed."""
    with open(path, "rb") as file:
        return _digest(file, os.path.getsize(path) - _DIGEST_BYTES) == file.read()


def _digest(file: IO[bytes], size: int) -> bytes:
    """The digest of the next bytes of a file."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()


def _name(fn: Any) -> str:
    """A function or class as it is called in every process. Raises `TypeError` for one without a name."""
    name = getattr(fn, "__qualname__", "<")
    if "<" in name:
        raise TypeError(f"{fn!r} cannot be told from another: give a function or class with a name, at module level")
    return f"{fn.__module__.replace('__mp_main__', '__main__')}.{name}"


def _content(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "blake2b": _digest(file, found.st_size).hex()}


def _same(made: dict[str, Any], path: str) -> bool:
    """Whether a file has the content it had. Of another date, as after a copy, its digest tells."""
    found = os.stat(path)
    if found.st_size != made["size"] or found.st_mtime_ns == made["mtime_ns"]:
        return bool(found.st_size == made["size"])
    return bool(_content(path)["blake2b"] == made["blake2b"])


def _named_itself(path: str) -> dict[str, bool]:
    """Not to infer the genes and transcripts of a GTF file that names them: slow, and each would be there twice."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as lines:
        types = {line.split(b"\t")[2] for line in islice(lines, _PEEK) if line.count(b"\t") > 2}
    return {"disable_infer_genes": b"gene" in types, "disable_infer_transcripts": b"transcript" in types}

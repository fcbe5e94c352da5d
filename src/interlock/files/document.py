"""JSON documents that many processes read and change. Layer: above `files.beside`."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interlock.files.atomic import StrPath, draft, resolve, write_all
from interlock.files.beside import lock_of
from interlock.objects import Lock
from interlock.objects.named import check_timeout

_STALE_READS = 5  # how often a read starts again because the server has dropped the file it had opened


class JsonFile:
    """A JSON document that many processes read, and change one at a time, in order of arrival.

    Reads take no lock, need no permission to write and never see half a document. Objects for one file exclude each
    other in all processes and on all hosts, whatever path they were made with. Pickles.

    Args: timeout: seconds to wait for other writers; None waits for ever, 0 tries once.
          sync: make every write survive a power failure, at the cost of two syncs.
          indent: spaces of each level, for files that people read; None writes one line, which is fastest.
          ensure_ascii: escape every character beyond ASCII.
          scope: URL of the locks, where they cannot be in ``.interlock`` beside the file: on a mount whose locks mean
          nothing between hosts, or for users who do not share the right to write there. All must give the same one,
          and see the file under the same path.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        timeout: float | None = 60.0,
        sync: bool = True,
        indent: int | None = None,
        ensure_ascii: bool = True,
        scope: str | None = None,
    ) -> None:
        self.path = str(Path(os.fsdecode(path)).absolute())
        self.timeout = check_timeout(timeout)
        self.sync = sync
        self.indent = indent
        self.ensure_ascii = ensure_ascii
        self.scope = scope

    def __repr__(self) -> str:
        return f"JsonFile({self.path!r})"

    def read(self, default: Any = ...) -> Any:
        """The document as it is now.

        Args:   default: returned if there is no file; a dict, list or set is copied, so that it stays as it is.
        Raises: FileNotFoundError: no file and no default. json.JSONDecodeError: damaged; the message names the path.
        Cost:   one file read.
        """
        return _load(self.path, default)

    def write(self, data: Any) -> None:
        """Replace the document, whatever it was; never between another writer's read and write.

        Raises: AcquireTimeout: not written; names who is writing (definite). TypeError: not JSON, nothing written.
        """
        target, content = resolve(self.path), self._encode(data)
        with lock_of(target, self.timeout, self.scope):
            self._replace(target, content)

    def update(self, fn: Callable[[Any], Any], default: Any = ...) -> Any:
        """Read, change and write the document with nobody else's write in between.

        Args:    fn: gets the document, returns the new one, and may change and return what it got. It runs under the
                 lock, once.
                 default: what `fn` gets if there is no file, copied as for `read`.
        Returns: what `fn` returned, which is what was written.
        Raises:  AcquireTimeout: not obtained; names who is writing (definite). Deadlock: `fn` updates the same file.
                 TypeError: `fn` returned None, having perhaps forgotten its ``return``, or what is not JSON.
                 FileNotFoundError, json.JSONDecodeError: as for `read`. And whatever `fn` raises. In every case nothing
                 was written.
        Crash:   a writer that dies has written all or nothing, and the next in the row goes on within a second.
        Cost:    a lock, a read and a write of the file.
        """
        target = resolve(self.path)
        with lock_of(target, self.timeout, self.scope):
            data = fn(_load(target, default))
            if data is None:
                raise TypeError(f"the function that updates {self.path} returned None; it must return the document")
            self._replace(target, self._encode(data))
        return data

    @property
    def lock(self) -> Lock:
        """The lock that its writers take, for changes of any other kind."""
        return lock_of(resolve(self.path), self.timeout, self.scope)

    def _encode(self, data: Any) -> bytes:
        return json.dumps(data, indent=self.indent, ensure_ascii=self.ensure_ascii).encode() + b"\n"

    def _replace(self, target: str, content: bytes) -> None:
        with draft(target, self.sync) as fd:
            write_all(fd, content)


def _load(path: str, default: Any) -> Any:
    try:
        content = _content(path)
    except FileNotFoundError:
        if default is ...:
            raise
        return copy.deepcopy(default) if isinstance(default, dict | list | set) else default
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(f"{path} is not JSON: {error.msg}", error.doc, error.pos) from None
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(f"{path} is not JSON: {error}", "", 0) from None


def _content(path: str) -> bytes:
    """The whole file. A server that knows nothing of this reader may drop a replaced file before it was read."""
    for _ in range(_STALE_READS):
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            stale = error
    raise stale

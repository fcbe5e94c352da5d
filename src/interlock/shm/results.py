"""What came of work that is done once, in shared memory: a file for each attempt, in a folder for each name.

A file is whole before the core names its attempt, and never changes. It goes when a later attempt has a result, when
the result is forgotten, or with the object; so does one whose worker died before it told anybody.

Layer: under `shm.regions`; it knows files only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from interlock.errors import RecordInvalid
from interlock.stores._record import Damage, blank, invalid, read_line
from interlock.stores._space import Space, reaching

FOLDER = "results"
_STATES = {b"v": "done", b"e": "failed"}


class Results:
    """The results in one scope, by the file names of their objects."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def write(self, filed: str, attempt: int, state: str, text: str) -> None:
        """Keep what an attempt came to. Raises `Unavailable` if the memory is full (definite)."""
        mark = next(mark for mark, named in _STATES.items() if named == state)
        with reaching(self._path(filed)):
            self._space.make_folder(FOLDER, self._space.root)
            self._space.make_folder(os.path.join(FOLDER, filed), self._space.root)
            with self._folder(filed) as folder:
                self._space.publish(str(attempt), folder, blank(mark + text.encode("utf-8", "surrogatepass")))

    def read(self, filed: str, attempt: int) -> tuple[str, str] | None:
        """State and text; None if it is gone."""
        with reaching(self._path(filed)), suppress(FileNotFoundError), self._folder(filed) as folder:
            try:
                fd = self._space.open(str(attempt), os.O_RDONLY, folder)
                with open(fd, "rb") as file:
                    _, _, line = read_line(None, file.read())
            except (Damage, RecordInvalid) as error:
                damage = error.damage if isinstance(error, RecordInvalid) else error
                path = os.path.join(self._path(filed), str(attempt))
                raise invalid(path, f"{damage}: forget the result") from None
            return _STATES[line[:1]], line[1:].decode("utf-8", "surrogatepass")
        return None

    def drop(self, filed: str, below: int | None = None) -> None:
        """Remove the results of attempts before this one, or all of them with their folder. What cannot be removed
        stays: nobody reads it."""
        with suppress(OSError), self._folder(filed) as folder:
            for name in os.listdir(folder):
                if below is None or (name.isdecimal() and int(name) < below):
                    with suppress(OSError):
                        os.unlink(name, dir_fd=folder)
            if below is None:
                os.rmdir(os.path.join(FOLDER, filed), dir_fd=self._space.root)

    def set_aside(self, filed: str, attempt: int) -> str | None:
        """Move a file that is no result out of the way; where it is then."""
        try:
            self.read(filed, attempt)
        except RecordInvalid:
            aside = f".damaged-{filed}-{os.urandom(4).hex()}"
            with reaching(self._path(filed)), self._folder(filed) as folder:
                os.rename(str(attempt), aside, src_dir_fd=folder, dst_dir_fd=self._space.root)
            return os.path.join(self._space.path, aside)
        return None

    def missing(self, filed: str, attempt: int) -> RecordInvalid:
        """The error for a result that is kept, and whose file is gone."""
        return invalid(os.path.join(self._path(filed), str(attempt)), "the result's file is gone: forget the result")

    @contextmanager
    def _folder(self, filed: str) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
        folder = os.open(os.path.join(FOLDER, filed), flags, dir_fd=self._space.root)
        try:
            yield folder
        finally:
            os.close(folder)

    def _path(self, filed: str) -> str:
        return os.path.join(self._space.path, FOLDER, filed)

"""`SharedArray`: an ``.npy`` file in shared memory, mapped by every process that uses its name.

A process is *attached* as long as it has a descriptor with a shared kernel lock on the file. The kernel keeps that
lock for whoever inherits the descriptor by fork, and drops it when the last of them ends, in whatever way. So a file
that can be locked exclusively is nobody's, proved; only such a file is ever removed, with that lock held:

- a file is whole and locked before it has its name, so nobody sees it unfinished or takes it for nobody's;
- whoever has locked a file looks whether it still has its name: else it was removed meanwhile, and the next one counts.

The mapping has a descriptor of its own, as it lasts as long as the arrays that somebody got from `numpy`.

What breaks it: somebody who removes or truncates the file of a live array. Layer: see the package.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import io
import math
import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np

from interlock.errors import InterlockError, InvalidName, Mismatch, RecordInvalid, Unavailable
from interlock.shm.store import home
from interlock.stores._kernel_lock import PRIMITIVES, Primitive, acquire
from interlock.stores._space import reaching

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

REACH_S = 5.0  # how long a process that was stopped while it removed a file may hold up the others
_FOLDER = ".arrays"  # no scope has such a name
_SHARED = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)  # a ``struct flock`` for the whole file
_SUFFIX = ".npy"
_LONGEST_NAME = 250  # bytes

_attached: dict[str, tuple[int, NDArray[Any]]] = {}  # of this process, by name: the locked descriptor and the array


class SharedArray:
    """A numpy array of a fixed shape and dtype that processes of one host share; zeros when it is new.

    Args:   shape, dtype: the same for everybody who uses the name.
    Raises: Mismatch: it exists with another shape or dtype. Unavailable: no room, or no shared memory. RecordInvalid:
            the file is damaged. All definite.
    """

    def __init__(self, shape: int | tuple[int, ...], dtype: DTypeLike, name: str) -> None:
        self.shape = np.empty(shape, dtype=[]).shape  # of no bytes
        self.dtype = np.dtype(dtype)
        self.name = name
        self._array = _attach(name, self.shape, self.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.shape, self.dtype, self.name)

    def numpy(self) -> NDArray[Any]:
        """The memory itself, as an array."""
        return self._array.view()

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Any:
        return self._array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._array[index] = value


def stale_arrays() -> list[str]:
    """The names of the arrays that nobody is attached to any more. Takes nothing."""
    return [name for name, path in _files() if not _in_use(path)]


def clean_stale_shared_memory() -> list[str]:
    """Remove the arrays that nobody is attached to any more, and tell their names; safe at any time."""
    return [name for name, path in _files() if _remove_unused(path)]


def _attach(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """This process's array of a name."""
    if dtype.hasobject:
        raise TypeError(f"an array of {dtype} cannot be shared: it holds references to this process's objects")
    found = _attached.get(name)
    if found is None:
        path = _path(name)
        with reaching(path):
            fd = _locked(path, shape, dtype)
        try:
            _check(name, array := _mapped(fd, path), shape, dtype)
        except BaseException:
            os.close(fd)
            raise
        found = _attached.setdefault(name, (fd, array))
        if found[0] != fd:  # another thread was faster
            os.close(fd)
    _check(name, found[1], shape, dtype)
    return found[1]


def _check(name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if (array.shape, array.dtype) != (shape, dtype):
        raise Mismatch(
            f"the shared array {name!r} is {array.dtype} of shape {array.shape}, not {dtype} of shape {shape}",
            name=name,
        )


def _locked(path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """A descriptor of the file of that name with the lock of those who are attached; the file is made if need be."""
    while True:
        _remove_unused(path)
        fd = _open(path)
        if fd is None:
            fd = _make(path, shape, dtype)
        if fd is not None:
            return fd


def _open(path: str) -> int | None:
    """The file as it is, locked; None if there is none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if not acquire(_SHARE, fd, time.monotonic() + REACH_S):
        os.close(fd)
        raise Unavailable(f"{path} is being removed by a process that does not go on, a stopped one perhaps", path=path)
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)
    return None


def _make(path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int | None:
    """A new file of zeros, locked; None if another process was faster. One that is killed meanwhile leaves nothing."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_2_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    size = header.tell() + dtype.itemsize * math.prod(shape)
    with ExitStack() as opened:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        opened.callback(os.close, directory)
        with ExitStack() as nameless:
            fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
            nameless.callback(os.close, fd)
            os.posix_fallocate(fd, 0, min(size, sys.maxsize))  # all of it now: a write that finds no room is a SIGBUS
            os.pwrite(fd, header.getvalue(), 0)
            _try_share(fd)
            try:
                os.link(f"/proc/self/fd/{fd}", os.path.basename(path), dst_dir_fd=directory, follow_symlinks=True)
            except FileExistsError:
                return None
            nameless.pop_all()
    return fd


def _mapped(fd: int, path: str) -> NDArray[Any]:
    try:
        return np.asarray(np.lib.format.open_memmap(f"/proc/self/fd/{fd}", mode="r+"))
    except ValueError as damage:
        raise RecordInvalid(f"{path} is damaged: {damage}", path=path, damage=str(damage)) from None


def _try_share(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _SHARED)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


_EXCLUSIVE = PRIMITIVES["ofd"]
_SHARE = Primitive("shared", _try_share, _EXCLUSIVE.unlock, _EXCLUSIVE.held_by_other)


def _remove_unused(path: str) -> bool:
    """Remove the file if nobody is attached to it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        unused = _EXCLUSIVE.try_lock(fd) and os.fstat(fd).st_nlink > 0
        if unused:
            os.unlink(path)
        return unused
    finally:
        os.close(fd)


def _in_use(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # by whoever has just removed it
    try:
        return _EXCLUSIVE.held_by_other(fd)
    finally:
        os.close(fd)


def _folder() -> str:
    path = os.path.join(home(), _FOLDER)
    with reaching(path), suppress(FileExistsError):
        os.mkdir(path, 0o700)
    return path


def _path(name: str) -> str:
    if not isinstance(name, str) or not name or len(filed := quote(name, safe="") + _SUFFIX) > _LONGEST_NAME:
        raise InvalidName(f"the name of a shared array is text, and not empty or longer than a file's, not {name!r}")
    return os.path.join(_folder(), filed)


def _files() -> Iterator[tuple[str, str]]:
    folder = _folder()
    with reaching(folder):
        found = sorted(os.listdir(folder))
    return ((unquote(filed.removesuffix(_SUFFIX)), os.path.join(folder, filed)) for filed in found)


@atexit.register
def _detach() -> None:
    """A process that ends in order removes what nobody else is attached to."""
    while _attached:
        name, (fd, _) = _attached.popitem()
        os.close(fd)
        with suppress(OSError, InterlockError):
            _remove_unused(_path(name))

"""The directory of a file store: its settings, its folders, its modes.

Layout::

    settings.json     schema and way of locking, pinned for every host; its own kernel lock is the space's lock
    floor             tokens given out by records that were removed since; new records start above it
    wake              wake-up words, mapped by every process of a host
    audit.log         one line for every forced action
    records/          one file per name: a readable part of the name, then a hash that tells any two names apart;
                      with claims one directory per name, and in it the versions of the record
    sessions/         one file per session, its kernel lock held for as long as the session lives; with claims, its
                      heartbeat

Directories are 0700 and files 0600, or the group's when the space's directory is setgid.
Layer: under `stores.file`.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from interlock.errors import InterlockError, Mismatch, RecordInvalid, Unavailable, UnsafeMount
from interlock.stores import _futex, _kernel_lock, _mount, _record
from interlock.stores._kernel_lock import Primitive

SCHEMA = 1
_PLAIN = re.compile(r"[^A-Za-z0-9._=+-]+")


def file_name(name: str) -> str:
    """The file of a name: readable at the front, unique by its hash, valid on every file system."""
    from hashlib import sha256  # not at import: loading it costs as much as the rest of the package

    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_PLAIN.sub('_', name)[:48].lstrip('.')}~{digest}"


class Space:
    """An open space. Folders are held open, so that nothing planted later at their paths can redirect an open.

    `primitive` is the kernel lock it is pinned to, None if it is pinned to claims; `shared`, whether other hosts may be
    at work in it.
    """

    def __init__(self, path: str, primitive: str | None, *, create: bool, local: bool = False) -> None:
        self.path = path
        self.renew_mutex()
        with reaching(path), ExitStack() as opened:
            chosen = ""
            if create and not os.path.exists(os.path.join(path, "settings.json")):
                chosen = _mount.rule(path, primitive, _kernel_lock.DEFAULT, local=local)
                _make_directory(path)
            self.root = _open_directory(path)
            opened.callback(os.close, self.root)
            self.group = bool(os.fstat(self.root).st_mode & stat.S_ISGID)
            if create:
                self._make_folders()
            self.records = _open_directory("records", self.root)
            opened.callback(os.close, self.records)
            self.sessions = _open_directory("sessions", self.root)
            opened.callback(os.close, self.sessions)
            self.primitive = self._settle_primitive(primitive, chosen, local)
            self.shared = self.primitive is None or _mount.may_be_shared(path)
            opened.pop_all()

    def close(self) -> None:
        """Close the folders."""
        for folder in (self.root, self.records, self.sessions):
            os.close(folder)

    def removed(self) -> bool:
        """Whether somebody removed the directory, or a folder of it, since it was opened."""
        with reaching(self.path):
            try:
                return any(os.fstat(folder).st_nlink == 0 for folder in (self.root, self.records, self.sessions))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):  # which network file systems answer then
                    raise
                return True

    def _make_folders(self) -> None:
        for folder in ("records", "sessions"):
            self.make_folder(folder, self.root)

    def _settle_primitive(self, wanted: str | None, chosen: str, local: bool) -> Primitive | None:
        """The way of locking pinned in the settings, if it may be used here; the first opener pins its choice."""
        if chosen and not self._exists("settings.json"):
            self._try_out(chosen)
            settings = {"schema": SCHEMA, "primitive": chosen} | ({"local": os.uname().nodename} if local else {})
            self.publish("settings.json", self.root, json.dumps(settings).encode() + b"\n", sync=True)
        settings = self._settings()
        pinned = settings.get("primitive")
        if wanted is not None and wanted != pinned:
            raise Mismatch(
                f"the space {self.path} is pinned to {pinned} locks, not {wanted}; every host must use the same"
            )
        if pinned != _mount.CLAIMS and pinned not in _kernel_lock.PRIMITIVES:
            raise Unavailable(f"the space {self.path} is pinned to {pinned} locks, which this system does not have")
        local = local or settings.get("local") == os.uname().nodename
        _mount.rule(self.path, pinned, _kernel_lock.DEFAULT, local=local)
        return _kernel_lock.PRIMITIVES.get(pinned)

    def _try_out(self, chosen: str) -> None:
        """Make sure, before it is pinned, that it excludes at least here, between two who open the same file."""
        name, other = f".trial.{os.urandom(6).hex()}", f".trial.{os.urandom(6).hex()}"
        primitive = _kernel_lock.PRIMITIVES.get(chosen)
        first = second = -1
        try:
            first = self.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, self.root)
            second = self.open(name, os.O_RDWR, self.root)
            if primitive is None:
                os.link(name, other, src_dir_fd=self.root, dst_dir_fd=self.root, follow_symlinks=False)
                works = not _links_again(name, other, self.root)
            else:
                works = primitive.try_lock(first) and (primitive.per_process or not primitive.try_lock(second))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL):
                raise
            works = False
        finally:
            for fd in {first, second} - {-1}:
                os.close(fd)
            for leftover in (name, other):
                with suppress(FileNotFoundError):
                    os.unlink(leftover, dir_fd=self.root)
        if not works:
            raise UnsafeMount(
                f"{chosen} locks do not work in {self.path} ({_mount.file_system(self.path)}): "
                f"`interlock doctor {self.path}` measures what does",
                path=self.path,
            )

    def _settings(self) -> dict[str, Any]:
        path = os.path.join(self.path, "settings.json")
        try:
            fd = self.open("settings.json", os.O_RDONLY, self.root)
            try:
                settings = json.loads(os.read(fd, 4096))
            finally:
                os.close(fd)
        except (OSError, ValueError, RecursionError, RecordInvalid) as error:
            raise RecordInvalid(f"the settings of the space cannot be read: {path}: {error}", path=path) from error
        if not isinstance(settings, dict) or settings.get("schema") != SCHEMA:
            raise RecordInvalid(f"{path} is of an unknown schema; use the interlock that made it", path=path)
        return settings

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def open(self, name: str, flags: int, directory: int) -> int:
        """Open a regular file of the space with the space's mode; `RecordInvalid` for anything planted in its place."""
        mode = 0o660 if self.group else 0o600
        try:
            fd = _record.open_regular(name, flags, directory, mode)
        except _record.Damage as damage:
            raise _record.invalid(os.path.join(self.path, name), damage) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _record.invalid(os.path.join(self.path, name), "a symbolic link is planted there") from None
            raise
        if flags & os.O_CREAT:
            self._settle_owner(fd, mode)
        return fd

    def make_folder(self, name: str, parent: int) -> None:
        """Make a folder with the space's mode; one that is there stays as it is."""
        try:
            os.mkdir(name, 0o770 if self.group else 0o700, dir_fd=parent)
        except FileExistsError:
            return
        fd = _open_directory(name, parent)
        try:
            self._settle_owner(fd, 0o2770)
        finally:
            os.close(fd)

    def _settle_owner(self, fd: int, mode: int) -> None:
        """What is in a space belongs to its users, also what root makes there."""
        owner = os.fstat(self.root)
        if self.group:
            os.fchmod(fd, mode)
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(fd, owner.st_uid, owner.st_gid)

    def publish(self, name: str, directory: int, content: bytes, *, sync: bool = False) -> None:
        """Create a file with its whole content at once; an existing one stays as it is."""
        temporary = f".{name[:64]}.{os.urandom(6).hex()}"
        with reaching(os.path.join(self.path, name)):
            try:
                fd = self.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, directory)
                try:
                    if os.write(fd, content) != len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    if sync:
                        os.fsync(fd)
                finally:
                    os.close(fd)
                _link(temporary, name, directory)
            finally:
                try:
                    os.unlink(temporary, dir_fd=directory)
                except OSError:
                    pass

    @property
    def lock(self) -> Primitive:
        """The kernel lock, where it is known that the space is pinned to one."""
        assert self.primitive is not None
        return self.primitive

    @contextmanager
    def locked(self, deadline: float | None = None) -> Iterator[None]:
        """Hold the space's own lock: whoever adds or removes a record file does."""
        if not self._one.acquire(timeout=remaining(deadline)):
            raise self._busy()
        try:
            with reaching(os.path.join(self.path, "settings.json")):
                fd = self.open("settings.json", os.O_RDWR, self.root)
                try:
                    if not _kernel_lock.acquire(self.lock, fd, deadline):
                        raise self._busy()
                    yield
                finally:
                    os.close(fd)
        finally:
            self._one.release()

    def _busy(self) -> Unavailable:
        return Unavailable(
            f"the space {self.path} was locked for the whole time by another process, a stopped one perhaps",
            path=self.path,
        )

    def renew_mutex(self) -> None:
        """In a forked child: whichever thread had the space's lock, it is not there."""
        self._one = threading.Lock()  # one thread at a time asks for the kernel lock

    def floor(self) -> int:
        """The largest token that removed records may have given out."""
        try:
            fd = self.open("floor", os.O_RDONLY, self.root)
        except FileNotFoundError:
            return 0
        try:
            return int(_record.read_unlocked(fd)[1])
        except (_record.Damage, ValueError) as damage:
            raise _record.invalid(os.path.join(self.path, "floor"), damage) from None
        finally:
            os.close(fd)

    def raise_floor(self, floor: int) -> None:
        """Let later records start above `floor`. The space must be locked."""
        if floor <= self.floor():
            return
        self.publish("floor", self.root, _record.blank(b"0\n"))
        file = _record.RecordFile(self.open("floor", os.O_RDWR, self.root), os.path.join(self.path, "floor"))
        try:
            file.read()
            file.write(b"%d\n" % floor)
        finally:
            file.close()

    @functools.cached_property
    def words(self) -> _futex.Words | None:
        """This host's wake-up words, or None where the mount cannot share a mapping: then waiting polls."""
        try:
            if not self._exists("wake"):
                self.publish("wake", self.root, b"\0" * _futex.SIZE)
            fd = self.open("wake", os.O_RDWR, self.root)
            try:
                return _futex.Words(fd)
            finally:
                os.close(fd)
        except (OSError, ValueError, InterlockError):
            return None


def remaining(deadline: float | None) -> float:
    """The time until a monotonic deadline as a mutex takes it."""
    return -1.0 if deadline is None else max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _make_directory(path)
    if os.stat(path).st_mode & stat.S_ISGID:
        os.chmod(path, 0o2770)


def _open_directory(path: str, parent: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0)
    if parent is not None:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags, dir_fd=parent)


def _links_again(name: str, taken: str, directory: int) -> bool:
    """Whether a hard link takes a name that is taken already."""
    try:
        os.link(name, taken, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        return False
    return True


def _link(temporary: str, name: str, directory: int) -> None:
    """Give a finished file its name unless the name is taken; where links do not exist, renaming must do."""
    try:
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


_ADVICE = {
    errno.ENOTDIR: "a file is where the directory should be",
    errno.EACCES: "permission denied: choose a directory you may write, with --url or INTERLOCK_URL",
    errno.EPERM: "permission denied: choose a directory you may write, with --url or INTERLOCK_URL",
    errno.EROFS: "the file system is read-only: choose another directory with --url or INTERLOCK_URL",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ELOOP: "a symbolic link is planted there",
    errno.ENOENT: "it does not exist",
}


@contextmanager
def reaching(path: str) -> Iterator[None]:
    """Turn the file system's errors about `path` into ours; ours pass as they are, though some are an `OSError` too."""
    try:
        yield
    except InterlockError:
        raise
    except OSError as error:
        raise unusable(path, error) from error


def unusable(path: str, error: OSError) -> Unavailable:
    """The error for a directory that cannot be used, with the reason in words."""
    reason = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    return Unavailable(f"cannot use {path}: {reason}", path=path, errno=error.errno)

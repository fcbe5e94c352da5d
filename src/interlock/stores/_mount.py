"""Which file system a path is on, and which way of locking may be used there.

Kernel locks of a shared file system may exclude the processes of one host only, and nothing shows it until two hosts
work at the same time. So a space is opened only where one of these holds:

1. the file system is a disk or memory of this host, or a shared one whose locks are known to reach every host with the
   options it is mounted with (NFS, Lustre, CephFS, GFS2);
2. `interlock doctor` has measured it and left its verdict in the directory or in one above it;
3. somebody said that one host alone uses it (``?local=ok``);
4. the space needs no kernel locks (`CLAIMS`).

Anything else is `UnsafeMount`: fail closed, and say what to do.

Layer: under the stores; it imports errors only.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from interlock.errors import UnsafeMount

CLAIMS = "claims"  # no kernel lock at all: see stores._claimed
VERDICT = ".interlock-mount.json"
SCHEMA = 1
_LIMIT_BYTES = 1 << 16
_ALL = ("ofd", "flock", "lockf")
_SHARED = re.compile(
    r"nfs|lustre|gpfs|beegfs|cifs|smb|ceph|gluster|fuse|9p|virtiofs|afs|ocfs2|gfs2|orangefs|pvfs|panfs|weka|efs"
)


class Mount(NamedTuple):
    """A line of the kernel's table of mounts: where, which type, from where, and the options of mount and server."""

    point: str = ""
    kind: str = ""
    source: str = ""
    options: frozenset[str] = frozenset()


def mount_of(path: str | os.PathLike[str]) -> Mount:
    """The mount that holds `path`; an empty one where the kernel does not say."""
    device = os.stat(path).st_dev
    wanted, real = f"{os.major(device)}:{os.minor(device)}", os.path.realpath(path)
    same = [mount for number, mount in _table() if number == wanted][::-1]
    around = [mount for mount in same if os.path.commonpath((real, mount.point)) == mount.point]
    return max(around or same, key=lambda mount: len(mount.point), default=Mount())


def _table() -> Iterator[tuple[str, Mount]]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.split()
                kind, source, options = fields[(dash := fields.index("-", 6)) + 1 : dash + 4]
                point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
                yield fields[2], Mount(point, kind, source, frozenset(f"{fields[5]},{options}".split(",")))
    except (OSError, ValueError, IndexError):
        return


def file_system(path: str | os.PathLike[str]) -> str:
    """The type of the file system that holds `path`, or an empty string where the kernel does not say."""
    return mount_of(path).kind


def may_be_shared(path: str | os.PathLike[str]) -> bool:
    """Whether other hosts may see the same directory, so that wake-ups on this host do not reach everybody."""
    return _SHARED.match(file_system(path)) is not None


def rule(path: str, primitive: str | None, default: str, *, local: bool = False) -> str:
    """The way of locking that a space at `path` is to use: `primitive` if it may, or for None the one that may.

    Raises: UnsafeMount: it excludes nobody on other hosts, or that is not known (definite); nothing was made.
    """
    place = _existing(path)
    mount, verdict = mount_of(place), _verdict_above(place)
    refused = _refused_by_options(mount)
    if verdict is not None:
        refused = {**verdict["refused"], **refused}
        default = verdict["primitive"] or default
    chosen = primitive or default
    if local:
        return chosen
    if verdict is None and not refused and chosen != CLAIMS and _undecided(mount):
        raise UnsafeMount(
            f"{path} is on {mount.kind}, mounted at {mount.point}, where kernel locks may mean nothing to other hosts. "
            f"Run `interlock doctor {path} --probe NAME` on two hosts at the same time: it measures that and remembers "
            f"it. Or use locks that need no kernel: file://{path}?primitive=claims. Or, if one host alone uses this "
            f"directory: file://{path}?local=ok",
            scope=f"file://{path}",
            path=path,
        )
    if chosen in refused or (verdict is not None and verdict["primitive"] is None):
        why = refused.get(chosen) or "no way of locking was found to work there"
        claims = f"locks that need no kernel, in a space of their own: file://{path}?primitive=claims, or "
        raise UnsafeMount(
            f"{path} cannot use {chosen} locks: {why} ({mount.kind} at {mount.point or '/'}). Use "
            f"{'' if chosen == CLAIMS else claims}another directory. `interlock doctor {path}` measures what works",
            scope=f"file://{path}",
            path=path,
        )
    return chosen


def _undecided(mount: Mount) -> bool:
    """Whether other hosts may use it and nothing tells whether kernel locks reach them."""
    return _SHARED.match(mount.kind) is not None and mount.kind not in ("nfs", "nfs4", "lustre", "ceph", "gfs2")


def _refused_by_options(mount: Mount) -> dict[str, str]:
    """What the options of the mount say about kernel locks. Sources: nfs(5), mount.lustre(8), gfs2(5)."""
    options = mount.options
    if mount.kind in ("nfs", "nfs4"):
        for option, names in (
            ("nolock", _ALL), ("local_lock=all", _ALL), ("local_lock=flock", ("flock",)),
            ("local_lock=posix", ("ofd", "lockf")),
        ):  # fmt: skip
            if option in options:
                return dict.fromkeys(names, f"it is mounted with {option}, so such locks stay on one host")
    if mount.kind == "lustre" and "flock" not in options:
        return dict.fromkeys(_ALL, "it is mounted without the option flock, so locks stay on one host or do not exist")
    if mount.kind == "gfs2" and "localflocks" in options:
        return dict.fromkeys(_ALL, "it is mounted with localflocks, so locks stay on one host")
    return {}


def publish(directory: str, verdict: dict[str, Any]) -> None:
    """Leave a verdict of `interlock doctor` for every space in `directory` and below, in place of an earlier one."""
    temporary = os.path.join(directory, f".interlock-mount.{os.urandom(6).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump({"schema": SCHEMA, **verdict}, file, indent=1)
            file.write("\n")
        os.rename(temporary, os.path.join(directory, VERDICT))
    except BaseException:
        os.unlink(temporary)
        raise


def verdict_for(path: str) -> dict[str, Any] | None:
    """What `interlock doctor` found for the directory, or for one above it on the same file system.

    Raises: UnsafeMount: the verdict is damaged, or of a later version (definite).
    """
    return _verdict_above(_existing(path))


def _verdict_above(place: str) -> dict[str, Any] | None:
    device = os.stat(place).st_dev
    while os.stat(place).st_dev == device:
        found = _read_verdict(place)
        if found is not None or place == "/":
            return found
        place = os.path.dirname(place)
    return None


def _read_verdict(directory: str) -> dict[str, Any] | None:
    """The verdict in one directory, if somebody left one there who may decide for it: its owner, root, or this user."""
    path = os.path.join(directory, VERDICT)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid(), os.stat(directory).st_uid):
            return None
        verdict = json.loads(os.read(fd, _LIMIT_BYTES))
        primitive, refused = verdict["primitive"], verdict["refused"]
        if verdict["schema"] != SCHEMA or primitive not in (*_ALL, CLAIMS, None) or not isinstance(refused, dict):
            raise ValueError("it is of another version")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnsafeMount(
            f"the verdict {path} cannot be read ({error}); `interlock doctor {directory}` makes a new one", path=path
        ) from None
    finally:
        os.close(fd)
    return {**verdict, "refused": {str(name): str(why) for name, why in refused.items()}}


def _existing(path: str) -> str:
    """The path, or the nearest directory above it that exists."""
    place = os.path.realpath(path)
    while not os.path.exists(place) and place != "/":
        place = os.path.dirname(place)
    return place

"""Which file system a path is on, from the kernel's own table of mounts.

Layer: under the stores; imports nothing of ours.
"""

from __future__ import annotations

import os
import re

_SHARED = re.compile(
    r"nfs|lustre|gpfs|beegfs|cifs|smb|ceph|gluster|fuse|9p|virtiofs|afs|ocfs2|gfs2|orangefs|pvfs|panfs|weka|efs"
)


def file_system(path: str | os.PathLike[str]) -> str:
    """The type of the file system that holds `path`, or an empty string where the kernel does not say."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                fields = line.split(" ")
                if fields[2] == wanted:
                    return fields[fields.index("-", 6) + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""


def may_be_shared(path: str | os.PathLike[str]) -> bool:
    """Whether other hosts may see the same directory, so that wake-ups on this host do not reach everybody."""
    return _SHARED.match(file_system(path)) is not None

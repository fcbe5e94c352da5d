"""Files that many processes replace: always whole, never two writers at once, never by a writer who was superseded.

A file is replaced by renaming a finished temporary file over it, so whoever opens it finds the old content or the new
one and needs no lock. The rename keeps the file's mode and its symbolic links, and its owner where the user may give
files away; access control lists, extended attributes and hard links are not kept. A process killed outright leaves
its temporary file, ``.NAME.PID.RANDOM.tmp``, behind.

Locks and tokens live beside the files they guard, in ``.interlock`` of the same directory, so that every process on
every host that sees the file finds the same ones, whatever path it knows the file by. Only writers need them.

Layer: above `session`.
"""

from interlock.files.atomic import atomic_write
from interlock.files.document import JsonFile
from interlock.files.fencing import fenced_replace

__all__ = ["JsonFile", "atomic_write", "fenced_replace"]

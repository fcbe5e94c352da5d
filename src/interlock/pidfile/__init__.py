"""Pid files: the lock files that shell scripts make with ``noclobber``, judged, taken and cleared beside our own locks.

    if ( set -o noclobber; echo "$$" > "$FOLDER/.training_lock" ) 2>/dev/null; then ...

Why it exists: such a file tells little more than a pid, it outlives its maker, and nobody is woken when it goes. Old
scripts go on making it; so new programs respect it and make it too. The rules:

1. A file is only ever made where there is none. Its maker removes it, or we do if that one is proved dead.
2. Whoever makes or removes one here holds its *guard* meanwhile, a lock named like the file in the scope beside it;
   `PidFile` holds it for as long as the file stands. The file says ``PID\\n`` and nothing else, as old scripts expect.
3. Beside the guard it is written which file was made under it. Such a file is worth what its guard is worth, and that
   is proved on every host: once the guard is free, it is what a dead maker left behind.
4. Any other file is judged by what it says: by its job, if the scheduler knows, and by its pid, on the host where that
   counts. Containers that share a directory of one host must name themselves in their files, as hosts do.
5. A file is removed only under its guard, and only if it is the very one that was judged dead. While it stands nobody
   can make another, and the dead do not remove theirs: so no living one is removed in its place.
6. What a file says is not trusted. It is read up to a limit, never through a symbolic link, and never waited for.

What breaks it: a person, or a script, that removes a file of somebody else. A script does so which removes its own
file before its end and once more at its end. The guard still keeps apart all who use `PidFile`.

Layer: above `files` and `inspection`.
"""

from interlock.pidfile.file import PidFile
from interlock.pidfile.sweep import clear, find, survey
from interlock.pidfile.verdict import look, said

__all__ = ["PidFile", "clear", "find", "look", "said", "survey"]

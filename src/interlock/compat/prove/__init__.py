"""`training_lock` of PROVE: no configuration is trained twice at a time, whoever starts it and in whichever way.

    from interlock.compat.prove import TrainingLock  # was: from training_lock import TrainingLock
    python -m interlock.compat.prove list|clear|check  # was: python training_lock.py

A `TrainingLock` is a lock in the directory of locks, and the shell scripts' file ``.training_lock`` in the folder of
the configuration's weights: so both kinds of lock exclude each other. What a caller may notice:

- Every Python program must change the import; shell scripts stay as they are.
- A lock that cannot be taken for any other reason than its holder is an error, where the original said "locked": a full
  disk, a missing right, a directory that names a variable which is not set.
- A look at a lock takes nothing, so it never makes a job's attempt fail. `is_locked` does not count this process.
- A ratio is not rounded: 0.121 and 0.124 are two configurations, and their folders too. A lock file that a script has
  made in the folder of the rounded ratio counts for all of them.
- Waiting is in order of arrival. Where a shell's file is in the way, it is looked at once a second.
- ``with`` raises `Locked`, which is a RuntimeError, as in the original, and an `interlock.AcquireTimeout`.

Layer: above `pidfile` and `clearing`.
"""

from interlock.compat.prove.listing import (
    clear_stale_file_locks,
    clear_stale_locks,
    is_pid_running,
    list_active_locks,
    list_all_locks,
    list_weights_dir_locks,
    preflight_check,
)
from interlock.compat.prove.training import DEFAULT_LOCK_DIR, DEFAULT_WEIGHTS_DIR, Locked, TrainingLock

__all__ = [
    "DEFAULT_LOCK_DIR", "DEFAULT_WEIGHTS_DIR", "Locked", "TrainingLock", "clear_stale_file_locks", "clear_stale_locks",
    "is_pid_running", "list_active_locks", "list_all_locks", "list_weights_dir_locks", "preflight_check",
]  # fmt: skip

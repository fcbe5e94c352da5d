"""Handles: files and databases that each process, or each thread, opens for itself when it first needs them.

    reads = interlock.handles.lmdb("reads.lmdb")      # nothing is opened yet
    value = reads.get()                               # opened here, once; elsewhere again

A handle may be a global, a default argument or an attribute of a data set. It goes through ``fork``, pickle and
threads, and what it opened does not. `PerProcess` is the handle, `limit` bounds how much a process holds open, and the
other functions make handles with a library's settings for many readers.

Layer: above `errors` alone.
"""

from interlock.handles.handle import PerProcess
from interlock.handles.presets import fasta, gff, hdf5, lmdb, sqlite
from interlock.handles.table import DEFAULT_LIMIT, limit

__all__ = ["DEFAULT_LIMIT", "PerProcess", "fasta", "gff", "hdf5", "limit", "lmdb", "sqlite"]

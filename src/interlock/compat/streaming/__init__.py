"""`SharedBarrier` and `SharedArray` of MosaicML streaming: the processes of one host meet, and share memory, by name.

    from interlock.compat.streaming import SharedArray, SharedBarrier  # was: from streaming.base.shared import ...

Every process must change the import. What a caller may notice:

- A barrier whose party dies raises `interlock.BrokenBarrier`, which names it, in all others; so does one whose parties
  call it with different numbers. It stays broken for those who were there, until `reset`; processes that are all new
  begin anew. A party that died before its first call was never met: only a `timeout` ends the wait for it.
- The parties of a round are expected in the next one: one that ended meanwhile, in whatever way, is missed by those
  that come back.
- Nothing is ever reset by being constructed or attached to. What is attached to with another shape or dtype is refused.
- `num_enter`, `num_exit` and `flag` show a barrier; setting them changes what this object shows until its next call.
- An array lives as long as a process is attached to it, and that is as long as a process lives that used it or was
  forked from one that did. The last one removes it as it ends; what is left behind by one that was killed is no longer
  found, and goes when the name is used again or with `clean_stale_shared_memory`, which spares what is in use.
- Nothing of `multiprocessing` is replaced, and everything here can be pickled, forked and spawned.

Names are those of a user on a host: two jobs that use one name at a time share what it names, as in the original.
Barriers are in ``shm://streaming``: ``interlock --url shm://streaming ls``. Where the build has no such scopes they are
beside `filelock_path`, which is not used otherwise.

Layer: above `session`. Arrays need Linux and numpy.
"""

from interlock.compat.streaming.array import SharedArray, clean_stale_shared_memory, stale_arrays
from interlock.compat.streaming.barrier import SharedBarrier

__all__ = ["SharedArray", "SharedBarrier", "clean_stale_shared_memory", "stale_arrays"]

"""shm://name: the objects of one host at the speed of its memory.

Locks, reader-writer locks, semaphores and barriers are C types over words of shared memory (``csrc``), with the face,
the errors and the meaning of the pure machines, which stay their specification; events, once and fences are records in
the same directory, kept by the machines themselves.

Layer: above the objects; `interlock.session` takes them from here when its scope is one of shared memory.
"""

from interlock.objects import Event, Fence, Once
from interlock.shm.barrier import Barrier
from interlock.shm.lock import Grant, Lock, RWLock, Semaphore

__all__ = ["Barrier", "Event", "Fence", "Grant", "Lock", "Once", "RWLock", "Semaphore"]

"""The objects of a scope in shared memory.

Layer: above `interlock.objects`; `interlock.session` takes them from here where the store says so.
"""

from interlock.objects import Event, Fence, Once
from interlock.shm.barrier import Barrier
from interlock.shm.lock import Grant, Lock, RWLock, Semaphore

__all__ = ["Barrier", "Event", "Fence", "Grant", "Lock", "Once", "RWLock", "Semaphore"]

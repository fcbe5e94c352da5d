"""The objects of a scope in shared memory.

Layer: above `interlock.objects`; a session takes them from its store.
"""

from interlock.objects import Kinds
from interlock.shm.barrier import Barrier
from interlock.shm.event import Event
from interlock.shm.lock import Lock, RWLock, Semaphore
from interlock.shm.once import Once

KINDS = Kinds(Lock, RWLock, Semaphore, Barrier, Event, Once)

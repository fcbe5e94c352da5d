"""The objects of a scope in shared memory.

Layer: above `interlock.objects`, which take them from the session's store.
"""

from interlock.shm.barrier import Barrier
from interlock.shm.event import Event
from interlock.shm.lock import Lock, Semaphore
from interlock.shm.once import Once

KINDS = (Lock, Semaphore, Barrier, Event, Once)

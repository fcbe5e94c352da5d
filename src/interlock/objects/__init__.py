"""The objects users hold: each is a name in a session, and drives its machine through the script."""

from interlock.objects.barrier import Arrival, Barrier
from interlock.objects.event import Event
from interlock.objects.fence import Fence
from interlock.objects.lock import Grant, Lock, RWLock, Semaphore
from interlock.objects.once import Once

__all__ = ["Arrival", "Barrier", "Event", "Fence", "Grant", "Lock", "Once", "RWLock", "Semaphore"]

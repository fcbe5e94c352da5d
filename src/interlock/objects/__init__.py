"""The objects users hold: each is a name in a session, and drives its machine through the script."""

from typing import NamedTuple

from interlock.objects.barrier import Arrival, Barrier
from interlock.objects.event import Event
from interlock.objects.fence import Fence
from interlock.objects.lock import Grant, Lock, RWLock, Semaphore
from interlock.objects.once import Once


class Kinds(NamedTuple):
    """The classes of a session's objects; a store may bring its own."""

    lock: type[Lock] = Lock
    rwlock: type[RWLock] = RWLock
    semaphore: type[Semaphore] = Semaphore
    barrier: type[Barrier] = Barrier
    event: type[Event] = Event
    once: type[Once] = Once


KINDS = Kinds()

__all__ = ["KINDS", "Arrival", "Barrier", "Event", "Fence", "Grant", "Kinds", "Lock", "Once", "RWLock", "Semaphore"]

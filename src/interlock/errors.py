"""Every error interlock raises: what happened, to which name, where, whose fault, and what to do.

An error is *definite* when it did not happen and nothing was left behind, *indefinite* when it may have happened.
All of them pickle, so that they cross process pools and ranks intact. Layer: the bottom one; imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlock.holder import Holder


class InterlockError(Exception):
    """Base of all errors; `name` is the object's name and `scope` the URL of its store."""

    definite = True

    def __init__(self, message: str, *, name: str | None = None, scope: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.name = name
        self.scope = scope
        for key, value in details.items():
            setattr(self, key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args[0], dict(self.__dict__)))


def _rebuild(kind: type[InterlockError], message: str, details: dict[str, Any]) -> InterlockError:
    return kind(message, **details)


class InvalidName(InterlockError, ValueError):
    """The name cannot be an object's name: empty, too long, or not text. Definite."""


class Mismatch(InterlockError, ValueError):
    """The object exists with another kind or other parameters (permits, parties). Definite."""

    @classmethod
    def of_kind(cls, name: str, kind: str, wanted: str, scope: str) -> Mismatch:
        """The error for a name whose record is of another kind than the object's."""
        return cls(f"{name!r} is a {kind} in {scope}, not a {wanted}", name=name, scope=scope)


class AcquireTimeout(InterlockError, TimeoutError):
    """Not obtained in time; nothing is held and nothing is left behind. Definite.

    `holders` are the participants waited for, `position` how many tickets were ahead, `waited` the seconds spent.
    """

    holders: Sequence[Holder] = ()
    position: int = 0
    waited: float = 0.0


class NotHeld(InterlockError, RuntimeError):
    """A release by a thread or process that does not hold. Definite."""


class Deadlock(InterlockError, RuntimeError):
    """Waiting could never end: the thread waits for itself. Definite. `cycle` names the objects and their holders."""

    cycle: Sequence[str] = ()


class BrokenBarrier(InterlockError, RuntimeError):
    """The barrier cannot complete. Definite.

    `missing` names each party that did not come: its `Holder` where known, else its rank. `reason` says why.
    """

    missing: Sequence[Holder | int] = ()
    reason: str = ""


class LimitExceeded(InterlockError, RuntimeError):
    """A bound of the object was reached: waiters, or the size of a value. Definite."""


class Unavailable(InterlockError, ConnectionError):
    """The store could not be reached or is not usable; nothing was done. Definite."""


class UnsafeMount(InterlockError, OSError):
    """Kernel locks mean nothing on this mount, so nothing was locked. Definite."""


class RecordInvalid(InterlockError, RuntimeError):
    """A record is damaged, of an unknown schema, or not ours. Nothing was overwritten. Definite.

    `path` is where it lies and `damage` what is wrong with it.
    """

    path: str = ""
    damage: str = ""


class Superseded(InterlockError, RuntimeError):
    """The holder of a larger token has replaced the file; nothing was written. Definite.

    `path` is the file, `token` the one refused and `newest` the one that replaced it last.
    """

    path: str = ""
    token: int = 0
    newest: int = 0


class OutcomeUnknown(InterlockError, ConnectionError):
    """The operation may or may not have happened. Indefinite."""

    definite = False


class SessionLost(InterlockError, RuntimeError):
    """The session's liveness is gone, or its hold was taken away: what was held is lost. Indefinite."""

    definite = False


class OwnerDied(InterlockError, RuntimeError):
    """The participant that held or computed died. Raised only where asked for; else ``grant.recovered`` is True."""


class RemoteError(InterlockError, RuntimeError):
    """The computation failed in another process with an error that cannot be rebuilt here.

    `kind` is the original type's name, `traceback` the original traceback as text.
    """

    kind: str = ""
    traceback: str = ""

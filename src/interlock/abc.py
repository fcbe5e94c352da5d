"""The seams of the library: what a machine is, what a store is, and the few values that cross between them.

Why it exists: machines, stores and objects never import one another; each knows only the protocols written here.
Layer: the bottom one; it imports nothing of ours.

The contract of a machine, each line a test in ``tests/machines/test_laws.py``:

1. `apply` is total and pure: any record and any op give a new record and an outcome, with no clock and no I/O.
2. It is idempotent per ticket: submitting an op again changes nothing and reports the same standing.
3. What can be granted is granted in the same step, and its ticket is in ``outcome.unpark``.
4. Evicting a session equals leaving with each of its tickets.
5. Tokens only grow.
6. A ticket stands in a record at most once, and the record's size is bounded.
7. ``decode(encode(record)) == record``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from interlock.errors import RecordInvalid
    from interlock.holder import Holder


class Ticket(NamedTuple):
    """One request of one session; it names the request for as long as anybody remembers it."""

    session: str
    serial: int

    def __str__(self) -> str:
        return f"{self.session}.{self.serial}"


class Leave(NamedTuple):
    """Give back what the ticket holds, or give up what it waits for. Every machine accepts it.

    `at`, here and in every op, is the submitter's wall clock in milliseconds; it is for people only.
    """

    ticket: Ticket
    at: int = 0
    why: str = ""


class Evict(NamedTuple):
    """Leave with every ticket of a session that is proved dead. Every machine accepts it.

    The session may be `unseen`: then whoever had that label is proved to have died before it came.
    """

    session: str
    at: int = 0
    why: str = ""


def takes(op: Leave | Evict, ticket: Ticket) -> bool:
    """Whether the op takes this ticket out of its record."""
    return ticket == op.ticket if isinstance(op, Leave) else ticket.session == op.session


class Outcome(NamedTuple):
    """What an op led to, as the machine saw it at the moment of the write.

    state:    ``waiting`` if the ticket must wait; every other word is final and belongs to the machine.
    value:    what the state carries (a grant, an index, a result); the machine documents it.
    unpark:   tickets whose standing changed in this step: they are to be woken.
    watch:    sessions this ticket is behind: if one of them is proved dead, submit `Evict`.
    then:     an op to submit once nobody in ``watch`` is proved dead, if the machine asks for that.
    position: how many tickets are ahead, for people.
    """

    state: str
    value: Any = None
    unpark: tuple[Ticket, ...] = ()
    watch: tuple[str, ...] = ()
    then: Any = None
    position: int = 0


WAITING = "waiting"


def unseen(label: str) -> str:
    """What stands for a party that nobody has seen yet in ``watch`` and `Evict`, where sessions stand otherwise: its
    label. No session has such an id."""
    return f"#{label}"


def label_of(session: str) -> str | None:
    """The label that an id made by `unseen` stands for; None for the id of a session."""
    return session[1:] if session.startswith("#") else None


class Machine(Protocol):
    """A coordination object as a pure state machine over an immutable record."""

    kind: str

    def initial(self, floor: int) -> Any:
        """The record of an unused name; tokens start above `floor`."""

    def apply(self, record: Any, op: Any) -> tuple[Any, Outcome]:
        """One step; returns the very same record when nothing changed."""

    def encode(self, record: Any) -> str:
        """The record as one line of JSON."""

    def decode(self, text: str) -> Any:
        """The record from its JSON; raises `ValueError` for anything `encode` does not write."""

    def token(self, record: Any) -> int:
        """The largest token the record has given out."""

    def idle(self, record: Any) -> bool:
        """Whether the record says nothing that its absence would not say."""

    def sessions(self, record: Any) -> dict[str, str]:
        """The sessions that have a part in the record, and which: ``holds`` or ``waits``."""


class Liveness(NamedTuple):
    """What is known about a session: ``alive``, ``dead`` (proved) or ``unknown``, with the proof in words."""

    state: str
    proof: str
    holder: Holder | None = None

    @property
    def status(self) -> str:
        """The state as people are told of it: ACTIVE, STALE (proved to be over, may be cleared) or UNKNOWN."""
        return STATUS[self.state]


STATUS = {"alive": "ACTIVE", "dead": "STALE", "unknown": "UNKNOWN"}


class Stored(NamedTuple):
    """A record as read without any lock: its name, kind, version and JSON text."""

    name: str
    kind: str
    version: int
    text: str


class Store(Protocol):
    """Keeps records. Three operations carry the whole library: `transact`, `park`/unpark, and the sessions."""

    url: str
    attachments: str  # directory of files that everybody in the scope sees; made when it is first needed

    def transact(self, name: str, machine: Machine, op: Any, deadline: float | None = None) -> Outcome:
        """Apply one op to the named record atomically and wake the tickets in ``outcome.unpark``.

        Raises `Unavailable` if the record could not be reached by `deadline` (monotonic seconds; nothing was
        written), `OutcomeUnknown` if the write may or may not have happened.
        """

    def park(self, ticket: Ticket, timeout: float) -> None:
        """Sleep until the ticket is unparked or `timeout` seconds are over.

        A wake-up that came between the `transact` that said ``waiting`` and this call is not lost to the caller.
        May return early, and never sleeps longer than the store's own re-poll interval: wake-ups are hints.
        """

    def open_session(self, holder: Holder, ttl_s: float) -> str:
        """Begin a session of this process and return its id; it lives until closed or the process dies."""

    def close_session(self, session: str, *, forget: bool = True) -> None:
        """End a session that has left every record; not to `forget` it leaves it behind as one that is dead."""

    def alive(self, session: str) -> Liveness:
        """Whether a session lives, with proof. Takes nothing."""

    def sessions(self) -> Iterator[str]:
        """Ids of every session the store remembers, dead ones included."""

    def forget_session(self, session: str) -> None:
        """Drop what is remembered of a session that is proved dead and has no part in any record."""

    def records(self, prefix: str = "") -> Iterator[Stored | RecordInvalid]:
        """Every record whose name starts with `prefix`, and an error for each damaged one. Read-only, takes nothing."""

    def read(self, name: str) -> Stored | None:
        """The named record as it stands. Read-only, takes nothing."""

    def retire(self, name: str, machine: Machine) -> bool:
        """Remove the record if it is idle; its tokens stay behind as the floor of all later records."""

    def discard(self, name: str, unreadable: str | None = None) -> str | None:
        """Set a record aside that is damaged, or whose text is just the one that nobody here can read, and raise the
        floor of tokens; returns where it was put, None if there was nothing to set aside."""

    def audit(self, line: str) -> None:
        """Append a line to the store's audit trail."""

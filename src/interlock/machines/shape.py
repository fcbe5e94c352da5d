"""Shape checks for records read back from a store: anything unexpected is a `ValueError`, never a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from interlock.abc import Ticket

_SESSION = re.compile(r"[0-9A-Za-z_-]{1,64}")


def parse(line: str) -> Any:
    """A line of JSON; one that is nested too deeply is as invalid as any other."""
    try:
        return json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def fields(value: Any, *names: str) -> tuple[Any, ...]:
    """The values of a JSON object that has exactly these members."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"expected an object with {', '.join(names)}")
    return tuple(value[name] for name in names)


def items(value: Any) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        raise ValueError("expected an array")
    return value


def integer(value: Any) -> int:
    """A whole number, not negative."""
    if type(value) is not int or value < 0:
        raise ValueError("expected a whole number")
    return value


def boolean(value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise ValueError("expected true or false")
    return value


def text(value: Any) -> str:
    """A string."""
    if type(value) is not str:
        raise ValueError("expected a string")
    return value


def optional_text(value: Any) -> str | None:
    """A string or null."""
    return None if value is None else text(value)


def session(value: Any) -> str:
    """A session id: letters, digits, dash and underscore only, so that it can be written back unquoted."""
    if not _SESSION.fullmatch(text(value)):
        raise ValueError("expected a session id")
    return str(value)


def optional_session(value: Any) -> str:
    """A session id, or an empty text for none."""
    return session(value) if value else text(value)


def ticket(value: Any) -> Ticket:
    """A ticket, written as an array of its two members."""
    session_id, serial = items(value)
    return Ticket(session(session_id), integer(serial))


def distinct(tickets: Iterable[Ticket]) -> None:
    """No ticket occurs twice."""
    seen = list(tickets)
    if len(set(seen)) != len(seen):
        raise ValueError("a ticket occurs twice")

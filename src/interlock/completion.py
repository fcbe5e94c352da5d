"""Completion: the marker that the work of a name is done, so that nobody does it again.

The marker of a name is a `Once` under the name with `SUFFIX`, published while the name's lock is still held. So whoever
looks under the lock sees every completion there was before, and a finished work is never begun anew. Work that ended
well but whose process died before the marker was written leaves none: it is done again.

Layer: above `session`.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from interlock import values
from interlock.abc import Store, Stored
from interlock.errors import Mismatch
from interlock.holder import Holder, span
from interlock.machines.once import ONCE
from interlock.objects import Grant
from interlock.session import Session

SUFFIX = "#done"


class Completion(NamedTuple):
    """Who did the work, when it was finished (wall clock, seconds), under which token and with which exit code."""

    exit_code: int
    finished: float
    token: int
    holder: Holder

    def describe(self) -> str:
        """In a person's words."""
        ago, who = span(time.time() - self.finished), self.holder.describe(self.finished)
        return f"done {ago} ago, exit code {self.exit_code}, by {who}"

    def facts(self) -> dict[str, object]:
        """What is published, and what ``--json`` shows."""
        return {**self._asdict(), "holder": json.loads(self.holder.to_json())}


def find(store: Store, name: str) -> Completion | None:
    """The completion of a name, if there is one. Takes nothing."""
    return of(store.read(name + SUFFIX))


def of(marker: Stored | None) -> Completion | None:
    """The completion that a record says, if it says one."""
    try:
        value = ONCE.decode(marker.text).value if marker is not None and marker.kind == ONCE.kind else None
        facts = values.decode(value) if value is not None else {}
        holder = Holder.from_json(json.dumps(facts["holder"]))
        return Completion(int(facts["exit_code"]), float(facts["finished"]), int(facts["token"]), holder)
    except (ValueError, TypeError, KeyError):
        return None


def publish(session: Session, name: str, grant: Grant, exit_code: int) -> None:
    """Say that the work of a name is done. The caller holds the name.

    Raises: Mismatch: the marker's name is in use for something else (definite).
    """
    mine = Completion(exit_code, time.time(), grant.token, session.holder).facts()
    if session.once(name + SUFFIX, lambda: mine) != mine:
        raise Mismatch(f"{name + SUFFIX!r} holds another result already", name=name + SUFFIX, scope=session.url)

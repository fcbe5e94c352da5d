"""What follows from what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.doctor.verdict import weigh

SOUND = dict.fromkeys(("ofd", "flock", "lockf", "exclusive_create", "hard_links"))
SEEN = dict.fromkeys(("new_name_s", "renamed_s", "rewritten_s", "appended_s"), 0.1)


def host(**reasons: str) -> dict[str, Any]:
    return {**SOUND, **reasons}


def pair(**reasons: Any) -> dict[str, dict[str, Any]]:
    return {"a - b": {**SOUND, **SEEN, **reasons}}


TWO = {"a": host(), "b": host()}
NO_LOCKS = {"ofd": "x", "flock": "x", "lockf": "x"}


@pytest.mark.parametrize(
    ("hosts", "between", "shared", "expected"),
    [
        ({"a": host()}, {}, False, (True, "ofd")),
        ({"a": host(ofd="x")}, {}, False, (True, "flock")),
        ({"a": host(ofd="x", flock="x")}, {}, False, (True, "lockf")),
        ({"a": host(**NO_LOCKS)}, {}, False, (True, "claims")),
        ({"a": host()}, {}, True, (False, None)),
        ({"a": host(ofd="x", lockf="x")}, {}, True, (False, None)),
        ({"a": host(**NO_LOCKS)}, {}, True, (True, "claims")),
        ({"a": host(**NO_LOCKS, hard_links="x")}, {}, True, (True, None)),
        (TWO, pair(), True, (True, "ofd")),
        (TWO, pair(ofd="x"), True, (True, "flock")),
        (TWO, pair(ofd="x", flock="x", lockf="x"), True, (True, "claims")),
        ({"a": host(), "b": host(ofd="x")}, pair(flock="x"), True, (True, "lockf")),
        (TWO, pair(**NO_LOCKS, rewritten_s=None), True, (True, None)),
        (TWO, pair(**NO_LOCKS, appended_s=None), True, (True, "claims")),
        (TWO, pair(rewritten_s=None), True, (True, "ofd")),
        (TWO, pair(exclusive_create="x"), True, (True, "ofd")),
    ],
)
def test_the_first_way_that_nothing_was_found_against(
    hosts: dict[str, Any], between: dict[str, Any], shared: bool, expected: tuple[bool, str | None]
) -> None:
    """A reason on any host, or between any two, refuses; one host decides nothing for others, except against locks."""
    assert weigh(hosts, between, shared)[:2] == expected


def test_each_refusal_has_its_first_reason() -> None:
    """Reasons of single hosts come first: they are the simpler ones."""
    refused = weigh({"a": host(), "b": host(ofd="on b")}, pair(ofd="between", hard_links="links"), True)[2]
    assert refused == {"ofd": "on b", "claims": "links"}


def test_claims_need_to_be_seen() -> None:
    """What other hosts do not see cannot be claimed from them; the reason says what it was."""
    refused = weigh(TWO, pair(new_name_s=None, rewritten_s=None), True)[2]
    assert refused == {"claims": "between a - b, this was not seen in time: new name, rewritten"}

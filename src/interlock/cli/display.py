"""What the commands print: tables and sentences for people, JSON with stable keys for programs.

Every text is printed without control characters: names, notes and proofs come from records that anybody may have
written. JSON is ASCII. Layer: under `cli.main`.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence

import click

from interlock.clearing import Step
from interlock.holder import plain, span
from interlock.inspection import PIDFILE, Part, Status

_HEAD = ("NAME", "KIND", "STATE", "AGE", "WAITING", "HOLDER")
_DONE = {
    "evict": "evicted",
    "retire": "retired",
    "forget": "forgot",
    "reset": "reset",
    "forget result": "forgot the result of",
    "keep": "left alone",
    "remove": "removed",
}


def listing(found: Sequence[Status], url: str, as_json: bool) -> None:
    """All of them: a JSON array, or a table."""
    if as_json:
        click.echo(json.dumps([status.facts() for status in found], indent=2))
        return
    if not found:
        click.echo(f"nothing to list in {plain(url)}", err=True)
        return
    table([_HEAD, *(row for status in found for row in _rows(status))])
    if any(_unknown(status) for status in found):
        click.echo(_advice("..."), err=True)


def table(rows: Sequence[tuple[str, ...]]) -> None:
    """Rows of cells in columns as wide as they need to be, the last one as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        click.echo(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        )


def details(status: Status, as_json: bool) -> None:
    """One of them: a JSON object, or a line for each thing known."""
    if as_json:
        click.echo(json.dumps(status.facts(), indent=2))
        return
    lines = [("name", status.name), ("kind", status.kind or "-"), ("state", _state(status))]
    lines += [(key, str(value)) for key, value in status.detail.items() if value not in (None, False)]
    for part in status.holders:
        lines += [("held by", _who(part)), ("", f"{part.life.status}: {part.life.proof}")]
    for place, part in enumerate(status.waiters, 1):
        lines += [(f"waiting {place}", _who(part)), ("", f"{part.life.status}: {part.life.proof}")]
    lines += [("", _advice(_selects(status)))] if _unknown(status) else []
    lines += [("damage", status.damage)] if status.damage else []
    lines += [("done", status.done.describe())] if status.done else []
    for key, text in lines:
        click.echo(f"{key:<12}{plain(text)}")


def verdict(status: Status, as_json: bool) -> None:
    """Whether it is free, in a line and one more for each holder, or all of it in JSON."""
    if as_json:
        details(status, as_json)
        return
    first, *others = _people(status)
    waiting = f"; {len(status.waiters)} waiting" if status.waiters else ""
    click.echo(plain(f"{status.name}: {_state(status)}" + (f": {first}" if first else "") + waiting))
    for other in others:
        click.echo(plain(f"  {other}"))
    if _unknown(status):
        click.echo(_advice(_selects(status)), err=True)


def steps(found: Sequence[Step], as_json: bool, *, applied: bool) -> None:
    """What was done, or would be."""
    if as_json:
        click.echo(json.dumps([{**step.facts(), "applied": applied and not step.open} for step in found], indent=2))
        return
    for step in found:
        verb = _DONE.get(step.action, step.action) if applied or step.open else f"would {step.action}"
        proof = f" ({step.status}: {step.why})" if step.state else f" ({step.why})" if step.why else ""
        click.echo(plain(f"{verb} {step.name or step.path or ''}{_whose(step)}{proof}"))
    open_ = sum(step.open for step in found)
    doable = len(found) - open_
    if not applied and doable:
        click.echo(f"{doable} to clear; nothing was changed: --apply does it", err=True)
    if any(step.action == "keep" for step in found):
        click.echo(_advice("..."), err=True)
    if not found:
        click.echo("nothing to do", err=True)


def _rows(status: Status) -> list[tuple[str, ...]]:
    """A row for the name and its first holder, and one for every other holder."""
    ages = [span(time.time() - part.since) if part.since else "-" for part in status.holders or status.waiters] or ["-"]
    head = (status.name, status.kind or "-", _state(status), ages[0], str(len(status.waiters)))
    first, *others = _people(status)
    rows = [(*head, first), *(("", "", "", age, "", who) for age, who in zip(ages[1:], others, strict=False))]
    return [tuple(plain(cell) for cell in row) for row in rows]


def _state(status: Status) -> str:
    """The state, with how many of how many where the kind counts."""
    permits, parties = status.detail.get("permits"), status.detail.get("parties")
    if permits and status.holders:
        return f"{status.state} {len(status.holders)}/{permits}"
    if parties and status.kind == "barrier" and status.state == "waiting":
        return f"waiting {status.detail['arrived']}/{parties}"
    return status.state


def _people(status: Status) -> list[str]:
    """Every holder with its status and the proof; else the first who waits; else, once, why there is nobody."""
    parts = status.holders or status.waiters
    if not parts:
        broken = status.detail.get("broken")
        return [status.damage or broken or (status.done.describe() if status.done else "")]
    told = [f"{part.life.status} {_who(part)} ({part.life.proof})" for part in parts]
    if status.holders or len(parts) == 1:
        return told
    return [f"{told[0]} and {len(parts) - 1} more"]


def _unknown(status: Status) -> bool:
    return any(part.life.state == "unknown" for part in status.parts)


def _selects(status: Status) -> str:
    """What `interlock clear` is given to clear it."""
    return ("--pidfiles " if status.kind == PIDFILE else "") + shlex.quote(status.name)


def _advice(target: str) -> str:
    """What to do about those of whom nobody here can tell whether they live."""
    return (
        "UNKNOWN: nobody here can tell whether it lives. Look again on its own host, or later (interlock clear --watch "
        f"60); if it is certain that it has ended: interlock clear {plain(target)} --apply --force --reason TEXT"
    )


def _whose(step: Step) -> str:
    who = step.who.describe() if step.who else f"session {step.session}" if step.session else "nobody knows who"
    return f": {step.role} it, {who}" if step.role else f" {who}" if step.session else ""


def _who(part: Part) -> str:
    who = part.life.holder.describe() if part.life.holder else f"session {part.session}"
    return who + (f", {part.mode}" if part.mode not in ("", "exclusive") else "")

"""What the commands print: tables and sentences for people, JSON with stable keys for programs.

Every text is printed without control characters: names, notes and proofs come from records that anybody may have
written. JSON is ASCII. Layer: under `cli.main`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click

from interlock.clearing import Step
from interlock.holder import span
from interlock.inspection import Part, Status

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


def plain(text: str) -> str:
    """The text with every character escaped that a terminal would act on instead of showing it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listing(found: Sequence[Status], url: str, as_json: bool) -> None:
    """All of them: a JSON array, or a table."""
    if as_json:
        click.echo(json.dumps([status.facts() for status in found], indent=2))
        return
    if not found:
        click.echo(f"nothing to list in {plain(url)}", err=True)
        return
    table([_HEAD, *(_row(status) for status in found)])


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
        lines += [("held by", _who(part)), ("", f"{part.life.state}: {part.life.proof}")]
    for place, part in enumerate(status.waiters, 1):
        lines += [(f"waiting {place}", _who(part)), ("", f"{part.life.state}: {part.life.proof}")]
    lines += [("damage", status.damage)] if status.damage else []
    lines += [("done", status.done.describe())] if status.done else []
    for key, text in lines:
        click.echo(f"{key:<12}{plain(text)}")


def verdict(status: Status, as_json: bool) -> None:
    """Whether it is free, in a line, or all of it in JSON."""
    if as_json:
        details(status, as_json)
        return
    text = _holder(status)
    waiting = f"; {len(status.waiters)} waiting" if status.waiters else ""
    click.echo(plain(f"{status.name}: {_state(status)}" + (f": {text}" if text else "") + waiting))


def steps(found: Sequence[Step], as_json: bool, *, applied: bool) -> None:
    """What was done, or would be."""
    if as_json:
        click.echo(json.dumps([{**step.facts(), "applied": applied and not step.open} for step in found], indent=2))
        return
    for step in found:
        verb = _DONE.get(step.action, step.action) if applied or step.open else f"would {step.action}"
        who = f": {step.role} it, " if step.role else " "
        who += (step.who.describe() if step.who else f"session {step.session}") if step.session else ""
        proof = f" ({step.state}: {step.why})" if step.state else f" ({step.why})" if step.why else ""
        click.echo(plain(f"{verb} {step.name or step.path or ''}{who}".rstrip() + proof))
    open_ = sum(step.open for step in found)
    doable = len(found) - open_
    if not applied and doable:
        click.echo(f"{doable} to clear; nothing was changed: --apply does it", err=True)
    if not found:
        click.echo("nothing to do", err=True)


def _row(status: Status) -> tuple[str, ...]:
    since = max((part.since for part in (status.holders or status.waiters)[:1]), default=0.0)
    age = span(time.time() - since) if since else "-"
    cells = (status.name, status.kind or "-", _state(status), age, str(len(status.waiters)), _holder(status))
    return tuple(plain(cell) for cell in cells)


def _state(status: Status) -> str:
    """The state, with how many of how many where the kind counts."""
    permits, parties = status.detail.get("permits"), status.detail.get("parties")
    if permits and status.holders:
        return f"{status.state} {len(status.holders)}/{permits}"
    if parties and status.kind == "barrier" and status.state == "waiting":
        return f"waiting {status.detail['arrived']}/{parties}"
    return status.state


def _holder(status: Status) -> str:
    """Who it is about: the first who holds it, else the first who waits, and how many more."""
    parts = status.holders or status.waiters
    if not parts:
        broken = status.detail.get("broken")
        return status.damage or broken or (status.done.describe() if status.done else "")
    mark = {"dead": "STALE ", "unknown": "UNKNOWN "}.get(parts[0].life.state, "")
    proof = f" ({parts[0].life.proof})" if mark else ""
    others = parts[1:]
    stale = sum(part.life.state == "dead" for part in others)
    more = f" and {len(others)} more" if others else ""
    return mark + _who(parts[0]) + proof + more + (f", {stale} of them STALE" if stale else "")


def _who(part: Part) -> str:
    who = part.life.holder.describe() if part.life.holder else f"session {part.session}"
    return who + (f", {part.mode}" if part.mode not in ("", "exclusive") else "")

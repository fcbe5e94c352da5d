"""The command line's look at caches: what is in them, whether it is whole, and clearing it.

A cache is named as in `Session.cache`, in the scope of ``--url``, or by its directory. Nothing here takes a lock.
Layer: under `cli.main`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import click

from interlock.cache import Cache
from interlock.cli.display import table
from interlock.holder import plain, span
from interlock.session import connect

_HEAD = ("KEY", "CODEC", "BYTES", "COMPUTED IN", "USED", "BY")


def opened(url: str | None, cache: str) -> Cache:
    """The cache of a name, or of a directory, which is told by a slash in it."""
    if os.sep in cache:
        return Cache(connect("memory://"), os.path.basename(cache.rstrip(os.sep)) or cache, directory=cache)
    return connect(url).cache(cache)


def names(url: str | None) -> list[str]:
    """The caches of the scope that have a directory."""
    from urllib.parse import unquote

    home = os.path.dirname(connect(url).cache("any").directory)
    return sorted(unquote(name) for name in os.listdir(home)) if os.path.isdir(home) else []


def listing(cache: Cache, as_json: bool) -> None:
    """Every whole entry, the one that was used last first."""
    found = sorted(cache.listing(), key=lambda entry: -entry.used)
    if as_json:
        facts = [
            {**entry.note._asdict(), "path": entry.path, "bytes": entry.bytes, "used": entry.used} for entry in found
        ]
        click.echo(json.dumps(facts, indent=2))
        return
    now = time.time()
    rows = [
        (
            plain(entry.note.key if len(entry.note.key) <= 60 else entry.note.key[:59] + "…"),
            entry.note.codec,
            str(entry.bytes),
            span(entry.note.seconds) if entry.note.seconds else "-",
            f"{span(max(0.0, now - entry.used))} ago",
            plain(entry.note.by),
        )
        for entry in found
    ]
    if rows:
        table([_HEAD, *rows])
    else:
        click.echo(f"nothing in {plain(cache.directory)}", err=True)


def stats(cache: Cache, as_json: bool) -> None:
    """How much there is, and what it took to compute."""
    found = list(cache.listing())
    facts: dict[str, Any] = {
        "directory": cache.directory,
        "entries": len(found),
        "bytes": sum(entry.bytes for entry in found),
        "seconds": round(sum(entry.note.seconds for entry in found), 3),
        "oldest": min((entry.note.at for entry in found), default=None),
        "newest": max((entry.note.at for entry in found), default=None),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    now = time.time()
    shown: dict[str, Callable[[Any], str]] = {"seconds": span, "oldest": lambda at: f"{span(now - at)} ago"}
    shown["newest"] = shown["oldest"]
    for name, value in facts.items():
        if value is not None:
            label = "computed in" if name == "seconds" else name
            click.echo(f"{label:<12}{plain(shown.get(name, str)(value))}")


def verify(cache: Cache, as_json: bool) -> bool:
    """Read all of it; whether all of it is whole."""
    damaged = cache.verify()
    if as_json:
        click.echo(json.dumps([entry._asdict() for entry in damaged], indent=2))
    else:
        for entry in damaged:
            click.echo(plain(f"{entry.path}: {entry.damage}"))
        whole = cache.stats().entries - len(damaged)
        click.echo(
            f"{whole} whole, {len(damaged)} damaged" + ("; the next read removes those" if damaged else ""), err=True
        )
    return not damaged


def clear(cache: Cache, apply: bool) -> None:
    """Remove every entry, or say how many there are."""
    if apply:
        click.echo(f"removed {cache.clear()} entries of {plain(cache.directory)}")
    else:
        click.echo(
            f"would remove {cache.stats().entries} entries of {plain(cache.directory)}; --apply does it", err=True
        )

"""The command line's look at this user's scopes in shared memory.

Layer: under `cli.main`.
"""

from __future__ import annotations

import json

import click

from interlock.cli.display import table
from interlock.holder import plain
from interlock.shm import scopes

_HEAD = ("SCOPE", "SESSIONS", "WHO")


def listing(prefix: str, as_json: bool) -> None:
    """Every scope, with those who are there."""
    found = list(scopes.scopes(prefix))
    if as_json:
        click.echo(json.dumps([_facts(scope) for scope in found], indent=2))
    elif found:
        table([_HEAD, *(_row(scope) for scope in found)])
    else:
        click.echo("no scope of shared memory", err=True)


def clear(prefix: str, as_json: bool) -> None:
    """Remove the scopes where nobody is, and say which."""
    removed = [scope.url for scope in scopes.scopes(prefix) if scope.left_over and scopes.remove(scope)]
    click.echo(json.dumps(removed, indent=2) if as_json else "\n".join(f"removed {plain(url)}" for url in removed))


def _row(scope: scopes.Scope) -> tuple[str, ...]:
    people = [life.holder.describe() for life in scope.there if life.holder is not None]
    who = people[0] + (f" and {len(people) - 1} more" if len(people) > 1 else "") if people else "nobody: left over"
    return plain(scope.url), str(len(scope.there)), plain(scope.damage or who)


def _facts(scope: scopes.Scope) -> dict[str, object]:
    people = [life.holder.describe() for life in scope.there if life.holder is not None]
    return {"url": scope.url, "path": scope.path, "sessions": len(scope.there), "who": people, "damage": scope.damage}

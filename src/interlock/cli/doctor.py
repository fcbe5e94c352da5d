"""Measuring a mount: here, together with other hosts, or on several hosts by ssh; and the verdict in words.

Exit codes: 0 for a verdict with something to use; 1 if it is not decided, or nothing works; 2 for an error.

Layer: under `cli.main`.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import click

from interlock import doctor
from interlock.cli.display import table
from interlock.doctor import Verdict
from interlock.doctor.verdict import CREATION, LINKS, SEEN
from interlock.errors import Unavailable
from interlock.holder import plain
from interlock.stores import _mount

UNDECIDED = 1
_LOST = 255  # what ssh exits with when it could not reach the host
_WAYS = {
    "ofd": "ofd locks", "flock": "flock locks", "lockf": "POSIX locks (lockf)",
    CREATION: "exclusive creation", LINKS: "hard links",
}  # fmt: skip
_SEEN = dict(
    zip(SEEN, ("a new name is seen", "a rename is seen", "new bytes are seen", "a new size is seen"), strict=True)
)
_CLOCKS = {
    "round_trip_s": "message and answer", "clock_ahead_s": "clock of the second ahead",
    "server_clock_ahead_s": "clock of the file server ahead",
}  # fmt: skip


class Request(NamedTuple):
    """What ``interlock doctor`` was asked."""

    path: str
    hosts: tuple[str, ...] = ()
    probe: str | None = None
    parties: int = 2
    timeout: float = 60.0
    pin: bool = True
    ssh: str = "ssh"
    program: str = "interlock"


def run(request: Request, as_json: bool) -> int:
    """Measure, print what was found, and return the exit code."""
    signal.signal(signal.SIGTERM, _exit)  # so that nothing is left in the directory
    if request.hosts:
        verdict = _by_ssh(request)
    else:
        verdict = doctor.examine(
            request.path, probe=request.probe, parties=request.parties, timeout=request.timeout, pin=request.pin
        )
    if as_json:
        click.echo(json.dumps(verdict.facts(), indent=2))
    else:
        _show(verdict)
    return UNDECIDED if verdict.primitive is None else 0


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


# -- on several hosts


def _by_ssh(request: Request) -> Verdict:
    """Start the same probe on each host, and take the verdict that all of them came to."""
    command = [
        *shlex.split(request.program), "doctor", os.path.abspath(request.path), "--json",
        "--probe", request.probe or os.urandom(6).hex(), "--parties", str(len(request.hosts)),
        "--timeout", f"{request.timeout:g}", *([] if request.pin else ["--no-pin"]),
    ]  # fmt: skip
    processes = [
        subprocess.Popen(
            [*shlex.split(request.ssh), host, shlex.join(command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for host in request.hosts
    ]
    try:
        said = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.terminate()
    codes = [process.returncode for process in processes]
    if not {*codes} <= {0, UNDECIDED}:
        raise Unavailable(_failed(request.hosts, codes, [error for _, error in said]))
    try:
        found = {json.dumps(facts := json.loads(out), sort_keys=True) for out, _ in said}
    except ValueError:
        raise Unavailable(f"the hosts did not answer in JSON: is {request.program!r} interlock there?") from None
    if len(found) > 1:
        raise Unavailable("the hosts did not come to the same verdict; measure again")
    return Verdict(**{key: value for key, value in facts.items() if key not in ("url", "verdict")})


def _failed(hosts: Sequence[str], codes: Sequence[int], errors: Sequence[str]) -> str:
    """What each host that failed said last."""
    told = (
        f"{host}: {(error.strip().splitlines() or [f'exit code {code}'])[-1].removeprefix('interlock: ')}"
        + (" (could it be reached?)" if code == _LOST else "")
        for host, code, error in zip(hosts, codes, errors, strict=True)
        if code not in (0, UNDECIDED)
    )
    return "; ".join(told)


# -- in words


def _show(verdict: Verdict) -> None:
    options = ",".join(verdict.options)
    click.echo(plain(f"{verdict.path} on {verdict.file_system or 'an unknown file system'} ({options})") + "\n")
    columns = {**verdict.measured["hosts"], **verdict.measured["between"]}
    rows = [("", *columns)]
    rows += [(words, *(_sound(found, way) for found in columns.values())) for way, words in _WAYS.items()]
    rows += [("shared mappings", *(_yes(found.get("shared_mapping")) for found in columns.values()))]
    for key, words in (_SEEN | _CLOCKS).items():
        if any(key in found for found in columns.values()):
            rows += [(words, *(_figure(found, key) for found in columns.values()))]
    table([tuple(plain(cell) for cell in row) for row in rows])
    click.echo()
    for way, words in _WAYS.items():
        if why := next((found[way] for found in columns.values() if found.get(way)), None):
            click.echo(plain(f"{words}: {why}"))
    click.echo(plain(f"verdict: {verdict.sentence}"))
    if verdict.url is not None:
        pinned = f"   (pinned: {os.path.join(verdict.path, _mount.VERDICT)})" if verdict.pinned else ""
        click.echo(plain(f"use it with --url '{verdict.url}'{pinned}"))


def _sound(found: dict[str, Any], way: str) -> str:
    return "ok" if found[way] is None else "NO"


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _figure(found: dict[str, Any], key: str) -> str:
    if key not in found:
        return ""
    value = found[key]
    if value is None:
        return "NEVER"
    text = f"{value:.1f} s" if abs(value) >= 1 else f"{value * 1000:z.1f} ms"
    return f"within {text}" if key in SEEN else text

"""Fixtures of the doctor's tests: the command line, and hosts that share a directory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hosts import Host, cluster, missing
from launchers.conftest import demand


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., tuple[Host, ...]]]:
    """Brings up hosts that share a directory; they end with the test."""
    demand(missing())
    with ExitStack() as stack:
        yield lambda *names, kind: stack.enter_context(cluster(tmp_path, *names, kind=kind))


def begin(host: Host, *options: str) -> subprocess.Popen[str]:
    """Start ``interlock doctor`` on a host, for the directory that it shares."""
    return host.start(sys.executable, "-m", "interlock", "doctor", str(host.shared), *options, stdin=subprocess.DEVNULL)


def finish(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for its end: the exit code, and what it said on standard output and standard error."""
    out, err = program.communicate(timeout=60)
    return program.returncode, out, err


def probe(*hosts: Host) -> list[dict[str, Any]]:
    """Measure on all of them together; the verdict of each, with its exit code as ``code``."""
    programs = [begin(host, "--probe", "x", "--parties", str(len(hosts)), "--json") for host in hosts]
    found = []
    for program in programs:
        code, out, err = finish(program)
        assert out, err
        found.append({**json.loads(out), "code": code})
    return found


def left(folder: Path) -> list[str]:
    """What lies in a directory."""
    return sorted(path.name for path in folder.iterdir())

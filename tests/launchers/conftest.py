"""Fixtures for tests under real launchers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from launchers.journal import Journal
from launchers.launching import COMMANDS, Done, absent, launch
from launchers.slurm import Slurm, cluster, missing


def demand(reason: str) -> None:
    """Skip if there is a reason to; but continuous integration has what the tests need, and skips nothing."""
    if reason and os.environ.get("CI"):
        pytest.fail(f"never skipped in continuous integration: {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Slurm]:
    demand(missing())
    with cluster() as slurm:
        yield slurm


@pytest.fixture
def slurm(_cluster: Slurm) -> Iterator[Slurm]:
    """The private cluster, with nothing on it; started once for all tests that use it."""
    yield _cluster
    _cluster.clear()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal; the scopes that it tells of are removed in the end."""
    journal = Journal(tmp_path / "journal")
    yield journal
    for scope in {entry["scope"] for entry in journal.read() if "scope" in entry}:
        shutil.rmtree(urlsplit(scope).path, ignore_errors=True)


@pytest.fixture
def shared(tmp_path: Path) -> str:
    """The URL of an empty directory that all nodes see."""
    return (tmp_path / "shared").as_uri()


@pytest.fixture(params=COMMANDS)
def launcher(request: pytest.FixtureRequest, shared: str) -> Callable[..., Done]:
    """Runs a module of this package in four ranks: on one node or, with srun, on two."""
    variables = {"INTERLOCK_URL": shared}
    if request.param == "srun":
        variables |= request.getfixturevalue("slurm").variables
    else:
        demand(absent(request.param))

    def run(module: str, *arguments: str) -> Done:
        return launch((*COMMANDS[request.param], f"launchers.{module}", *arguments), **variables)[0]

    return run

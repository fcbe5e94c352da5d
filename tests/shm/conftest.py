"""Fixtures: an empty scope of shared memory, and sessions in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import interlock
from conftest import new_scope
from interlock.shm.store import home
from interlock.stores._space import file_name

Connect = Callable[..., interlock.Session]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty scope, removed afterwards."""
    yield from new_scope("shm", tmp_path)


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    """Opens sessions in the scope and closes them afterwards."""
    opened: list[interlock.Session] = []

    def open_one(**options: object) -> interlock.Session:
        opened.append(interlock.connect(url, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


def folder(url: str) -> Path:
    """Where a scope is."""
    return Path(home(), url.removeprefix("shm://"))


def place(url: str, name: str) -> Path:
    """Where the object of a name is."""
    return folder(url) / "native" / file_name(name)

"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import interlock
from cli.command import Command


@pytest.fixture
def command(file_url: str) -> Iterator[Command]:
    """The command line, with ``$INTERLOCK_URL`` naming an empty file scope."""
    command = Command(file_url)
    yield command
    command.end()


@pytest.fixture
def session(file_url: str) -> Iterator[interlock.Session]:
    """A participant of the same scope in this process."""
    with interlock.connect(file_url) as session:
        yield session

"""Caches in file scopes: opened by name, closed with their sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import interlock
from interlock.cache import Cache


@pytest.fixture
def opened(file_url: str) -> Iterator[Callable[..., Cache]]:
    """Opens the cache ``name``, each time in a session of its own."""
    sessions = []

    def open_one(name: str = "cache", **options: object) -> Cache:
        sessions.append(interlock.connect(file_url))
        return Cache(sessions[-1], name, **options)  # type: ignore[arg-type]

    yield open_one
    for session in sessions:
        session.close()


@pytest.fixture
def cache(opened: Callable[..., Cache]) -> Cache:
    """An empty cache."""
    return opened()

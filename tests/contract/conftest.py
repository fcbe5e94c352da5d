"""Fixtures of the contract: threads and processes beside the test, and a bounded wait for what they do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import interlock
from conftest import STORES, new_scope
from contract.peer import Peer

PATIENCE_S = 20.0


@pytest.fixture(params=[store for store in STORES if store in ("file", "shm")])
def file_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty scope that processes share, once for every store whose participants are processes."""
    yield from new_scope(request.param, tmp_path)


class Thread:
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._future: Future[Any] = Future()
        self._work = (function, args)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        function, args = self._work
        try:
            self._future.set_result(function(*args))
        except BaseException as error:
            self._future.set_exception(error)

    @property
    def done(self) -> bool:
        return self._future.done()

    def result(self, within_s: float = PATIENCE_S) -> Any:
        """Its result or its error, waited for."""
        return self._future.result(within_s)


@pytest.fixture
def background() -> Iterator[Callable[..., Thread]]:
    """Runs functions beside the test, each in a thread of its own, and waits for them at the end."""
    started: list[Thread] = []

    def start(function: Callable[..., Any], *args: Any) -> Thread:
        started.append(Thread(function, *args))
        return started[-1]

    yield start
    for thread in started:
        thread._thread.join(PATIENCE_S)


@pytest.fixture
def peers(file_url: str) -> Iterator[Callable[..., Peer]]:
    """Starts processes with sessions in the scope of `file_url`, and ends them."""
    started: list[Peer] = []

    def start(method: str = "fork", **options: Any) -> Peer:
        started.append(Peer(file_url, method, **options))
        return started[-1]

    yield start
    for peer in started:
        peer.end()


def standing(session: interlock.Session, name: str) -> int:
    """How many tickets of a session stand in the record of a name."""
    stored = session.store.read(name)
    return stored.text.count(session.id) if stored is not None else 0

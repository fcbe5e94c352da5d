"""Fixtures every suite uses: one URL per declared store, and the header that says which stores ran."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import interlock

STORES = ("memory", "file", "claims")

# Shells have what they start in the background ignore these, and so would everything that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_report_header() -> str:
    return f"interlock {interlock.__version__}; stores: {', '.join(STORES)}; build: pure Python"


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty scope, once for every store."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"file://{tmp_path}/space" + ("?primitive=claims" if request.param == "claims" else "")


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """The URL of an empty file scope."""
    return f"file://{tmp_path}/space"


@pytest.fixture
def connect(url: str) -> Iterator[Callable[..., interlock.Session]]:
    """Opens sessions in the scope of `url` and closes them afterwards."""
    opened: list[interlock.Session] = []

    def open_one(**options: object) -> interlock.Session:
        session = interlock.connect(url, **options)  # type: ignore[arg-type]
        opened.append(session)
        return session

    yield open_one
    for session in opened:
        session.close()

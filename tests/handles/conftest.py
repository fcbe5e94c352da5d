"""A data set of each preset, and an empty table for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handles.files import MAKERS, Values
from interlock import handles
from interlock.handles.table import table


@pytest.fixture(params=MAKERS)
def values(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Values]:
    """The data set of each preset; nothing is open yet."""
    handle = MAKERS[request.param](tmp_path)
    yield Values(request.param, handle)
    handle.close()


@pytest.fixture(autouse=True)
def empty_table() -> Iterator[None]:
    """What is open, and how much may be, is the process's: each test starts with nothing open and the default limit."""
    table().close_all()
    yield
    table().close_all()
    handles.limit(handles.DEFAULT_LIMIT)

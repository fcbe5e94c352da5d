"""Waiting in tests for what others bring about."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    condition: Callable[[], object], timeout: float = 60.0, situation: Callable[[], str] = lambda: "it is not so"
) -> None:
    """Ask until the condition holds, soon and then seldomer; fail if it does not come to hold.

    `situation` says how things are when the time is over.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < timeout, f"after {timeout:.0f} s: {situation()}"
        time.sleep(min(0.002, 0.0002 + waited / 8))

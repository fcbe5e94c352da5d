"""The other runner: it performs what a script asks for, for an asyncio task; the twin of `_runners.block`.

Whatever may sleep or touch a disk is done in a worker thread, and the task awaits it. Layer: above `_runners`.
"""

from __future__ import annotations

import asyncio
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from interlock._runners import Target, perform
from interlock._script import Abandon, Now, Park, Pause, Script, Submit

_SLEEPERS = 64


async def unblock(script: Script, target: Target) -> Any:
    """Run a script in the current task and return its result."""
    step, answer = script.send, None
    while True:
        try:
            effect = step(answer)
            step, answer = script.send, await _perform(target, effect)
        except StopIteration as stop:
            return stop.value
        except BaseException as error:
            if getattr(script, "gi_frame", None) is None:
                raise
            step, answer = script.throw, error


async def _perform(target: Target, effect: Any) -> Any:
    if isinstance(effect, Pause):
        return await asyncio.sleep(effect.seconds)
    if isinstance(effect, Now | Abandon):
        return perform(target, effect)
    # Sleepers have threads of their own, so that however many there are, a release finds a free one.
    pool = _sleepers() if isinstance(effect, Park) else None
    future = asyncio.get_running_loop().run_in_executor(pool, perform, target, effect)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        # Cancelling does not undo a transaction under way; left alone, it could come after the script's `Leave`.
        while isinstance(effect, Submit) and not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        raise


@functools.cache
def _sleepers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_SLEEPERS, "interlock-park")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_sleepers.cache_clear)

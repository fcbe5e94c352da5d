"""Asking a scheduler: one of its commands, run to its end or to a limit.

1. No command is waited for longer than `LIMIT_S`; it is killed then, with all that it has started.
2. A command that did not answer is left alone for `REST_S`, so that a long list of holders does not wait for each.
3. It speaks C, without the asker's own filters and formats: with ``SQUEUE_USERS`` set, squeue would hide jobs.
4. What is no clean answer is `Silent`, and proves nothing.

Layer: the bottom one of `schedulers`; it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

LIMIT_S = 10.0
REST_S = 30.0
LIMIT_BYTES = 1 << 20
_FILTERS = ("SQUEUE_", "SINFO_", "SACCT_", "SLURM_CLUSTERS", "LSB_BJOBS_", "LC_", "LANG")
_resting: dict[str, float] = {}  # programs that did not answer, and until when (monotonic) they are left alone


class Silent(Exception):
    """There is no answer that proves anything; the text says why."""


class Refused(Silent):
    """The command ended with an error; the text is its own."""


def ask(*command: str) -> str:
    """What a command prints.

    Raises:  Silent: it is not there, does not answer within `LIMIT_S`, or prints more than anybody could mean.
             Refused: it ended with an error.
    """
    import subprocess

    program = command[0]
    if time.monotonic() < _resting.get(program, 0.0):
        raise Silent(f"{program} did not answer a moment ago")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Silent(f"there is no {program} here") from None
    except (OSError, ValueError) as error:
        raise Silent(f"{program} cannot be run: {error}") from None
    end = time.monotonic() + LIMIT_S
    try:
        said, complaint, code = _hear(process, end)
    except TimeoutError as error:
        _resting[program] = time.monotonic() + REST_S
        raise Silent(f"{program} {error}") from None
    finally:
        _end(process)
    if code:
        raise Refused(f"{program}: {' '.join((complaint or said).split())[:200] or f'exit status {code}'}")
    return said


def _hear(process: subprocess.Popen[bytes], end: float) -> tuple[str, str, int]:
    """Its output, its error output and its exit status. Raises `TimeoutError` at the limit of time or size."""
    import selectors
    import subprocess

    assert process.stdout is not None
    assert process.stderr is not None
    late = f"did not answer within {LIMIT_S:.0f} s"
    heard = {pipe.fileno(): bytearray() for pipe in (process.stdout, process.stderr)}
    with selectors.DefaultSelector() as selector:
        for descriptor in heard:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(max(0.0, end - time.monotonic())):
                chunk = os.read(key.fd, 1 << 16)
                heard[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if any(len(text) > LIMIT_BYTES for text in heard.values()):
                raise TimeoutError("does not stop talking")
            if time.monotonic() >= end:
                raise TimeoutError(late)
    try:
        code = process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError(late) from None
    said, complaint = (text.decode("utf-8", "replace") for text in heard.values())
    return said, complaint, code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of it. A process that the kernel does not let go is not waited for."""
    import subprocess

    if process.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # not waited for yet, so its number is still its own
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_FILTERS)}
    return kept | {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}

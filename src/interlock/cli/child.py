"""The command that runs while a name is held: signals go to it, and it does not outlive the hold.

1. While it runs, this process only listens: the signals it forwards are blocked and taken one by one, so none is lost
   between the fork and the exec, and no handler runs anywhere.
2. What the terminal sends goes to the whole foreground group, the command included, and is not delivered twice: the
   kernel marks it as its own. What a person or a scheduler sends to this process alone is passed on. Any of these
   signals may be what makes the command save its work and end early: SIGUSR1 no less than SIGTERM.
3. If it must stop, because the hold is lost or the job's time is up, it gets SIGTERM and, some seconds later, SIGKILL.
4. If this process is killed, the kernel kills the command. That is true of the command itself, not of its children.

Descriptors are not inherited. Linux only: prctl(2), sigtimedwait(2). Layer: under `cli.run`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import click

from interlock.errors import Unavailable
from interlock.holder import plain

LOOK_S = 1.0  # how often it is asked whether the command must stop
NOT_FOUND = 127
NOT_EXECUTABLE = 126
_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
_BY_KERNEL = 0x80  # SI_KERNEL
_PR_SET_PDEATHSIG = 1


class Stop(NamedTuple):
    """Why the command must stop now, and how many seconds it has between SIGTERM and SIGKILL."""

    why: str
    within_s: float


class End(NamedTuple):
    """How the command ended: its exit code as a shell tells it, and whether it had got a signal that may ask it to."""

    code: int
    asked: bool = False


def run(command: Sequence[str], environment: Mapping[str, str], must_stop: Callable[[], Stop | None]) -> End:
    """Run the command to its end, or until it must stop.

    Args: must_stop: asked every `LOOK_S`; None while the command may go on.
    """
    if not hasattr(signal, "sigtimedwait"):
        raise Unavailable("interlock run needs Linux")
    caught: set[int] = {
        getattr(signal, name) for name in _FORWARDED if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN
    }
    listened = caught | {signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it is not told how its child ended
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, listened)
    try:
        process = subprocess.Popen(command, env=environment, preexec_fn=_birth(caught, mask))
    except OSError as error:
        click.echo(f"interlock: {command[0]}: {error.strerror}", err=True)
        return End(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)
    else:
        return _attend(process, listened, must_stop)
    finally:
        while signal.sigtimedwait(listened, 0):
            pass  # meant for the command, which is gone
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _attend(process: subprocess.Popen[bytes], listened: set[int], must_stop: Callable[[], Stop | None]) -> End:
    try:
        stop, asked = None, False
        look_at = time.monotonic() + LOOK_S
        while process.poll() is None:
            told = signal.sigtimedwait(listened, max(0.0, look_at - time.monotonic()))
            if told is not None:
                asked = asked or told.si_signo != signal.SIGCHLD
                if told.si_signo != signal.SIGCHLD and told.si_code != _BY_KERNEL:
                    process.send_signal(told.si_signo)
            elif stop is not None:
                process.kill()
                process.wait()
            elif (stop := must_stop()) is not None:
                click.echo(f"interlock: {plain(stop.why)}: stopping the command", err=True)
                process.terminate()
                asked = True
                look_at = time.monotonic() + stop.within_s
            else:
                look_at = time.monotonic() + LOOK_S
    except BaseException:
        process.kill()
        process.wait()
        raise
    return End(process.returncode if process.returncode >= 0 else 128 - process.returncode, asked)


def _birth(caught: set[int], mask: set[int]) -> Callable[[], None]:
    """What the new process does before it becomes the command: die with its parent, and hear signals as usual."""
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def be_born() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os.kill(os.getpid(), signal.SIGKILL)
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return be_born

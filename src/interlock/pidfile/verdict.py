"""Whether the holder of a pid file lives, with the proof. Layer: above `pidfile.guard`."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from interlock.abc import Liveness
from interlock.errors import InterlockError
from interlock.files.atomic import StrPath, resolve
from interlock.holder import Holder, process, running, span
from interlock.pidfile.content import UNNAMED, Seen, read, understand
from interlock.pidfile.guard import holding, signed
from interlock.stores._mount import may_be_shared

INSTANT_S = 60.0  # what is later than the file by more than that did not make it
SKEW_S = 600.0  # the same by the clock of a file server: Munge and Kerberos refuse clocks that differ by half of it


def look(path: StrPath) -> Liveness | None:
    """The status of a file, with its proof; None if there is none. Takes nothing, and writes nothing."""
    target = resolve(os.fsdecode(path), follow=False)
    try:
        seen = read(target)
        # Only then the guard: whoever made the file held it by that time, so if it is free now, that tells something.
        guard = holding(target) if seen is not None and not seen.wrong else None
        if seen is None or (guard is not None and guard.state != "dead"):
            return guard
        return judge(target, seen, guard)
    except (OSError, InterlockError) as error:
        return Liveness("unknown", f"it cannot be looked at ({error})")


def said(path: StrPath) -> Holder | None:
    """Who a file says its holder is, not verified: a pid of 0 and a host of ``unknown`` stand for what it does not say.
    None if there is no file, or it cannot be understood."""
    seen = read(os.fsdecode(path))
    try:
        return None if seen is None or seen.wrong else understand(seen)
    except ValueError:
        return None


def judge(path: str, seen: Seen, guard: Liveness | None = None) -> Liveness:
    """The status of a file whose guard nobody holds but the caller, or a dead one: then `guard` is the proof."""
    if seen.wrong:
        return Liveness("unknown", seen.wrong)
    try:
        holder = understand(seen)
    except ValueError as error:
        return Liveness("unknown", str(error))
    if signed(path, seen):
        if guard is not None and guard.holder is not None and guard.holder.pid == holder.pid:
            holder = guard.holder
        return Liveness("dead", f"PID not running: {'its guard is free' if guard is None else guard.proof}", holder)
    if (told := _by_job(holder)) is not None:
        return told
    shared = may_be_shared(os.path.dirname(path))
    if (holder.pid, holder.host, holder.job_id) == (0, UNNAMED, None):
        return _without_pid(seen, shared)
    if holder.host == UNNAMED and not shared:
        holder = replace(holder, host=os.uname().nodename)
    return _by_process(holder, seen, shared) if holder.pid and _is_here(holder.host) else _elsewhere(path, holder)


def _by_job(holder: Holder) -> Liveness | None:
    """By its job, if the scheduler knows that one."""
    if holder.job_id is None:
        return None
    from interlock import schedulers  # not at import: few files name a job

    life = schedulers.life(holder)
    return None if life is None or life.state == "unknown" else Liveness(life.state, life.proof, holder)


def _without_pid(seen: Seen, shared: bool) -> Liveness:
    """A shell writes the pid in the instant after it has made the file; on a full disk it never does."""
    slack, age = SKEW_S if shared else INSTANT_S, time.time() - seen.made
    if age > slack:
        return Liveness("dead", f"no PID, and the file was made {span(age)} ago")
    return Liveness("unknown", f"no PID yet, but the file may just be written: it is not {span(slack)} old")


def _by_process(holder: Holder, seen: Seen, shared: bool) -> Liveness:
    """By the process of this host that has the pid: the one that is meant was there when the file was made."""
    booted, found = _booted(), process(holder.pid)
    if booted is not None:
        began = booted + found.start / os.sysconf("SC_CLK_TCK") if found is not None else 0.0
        if began - seen.made > (SKEW_S if shared else INSTANT_S):
            proof = f"process {holder.pid} is another one now, which began {span(began - seen.made)} after the file"
            return Liveness("dead", f"PID not running: {proof}", holder)
        if not shared and booted - seen.made > INSTANT_S:
            return Liveness("dead", "PID not running: the file is older than the last boot of this machine", holder)
    life = running(holder.pid)
    return Liveness(life.state, f"PID not running: {life.proof}" if life.state == "dead" else life.proof, holder)


def _booted() -> float | None:
    """The wall clock at the last boot; None where the times in /proc do not count from there."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return None if clock is None or process(os.getpid()) is None else time.time() - time.clock_gettime(clock)


def _elsewhere(path: str, holder: Holder) -> Liveness:
    where = "on a host that it does not name" if holder.host == UNNAMED else f"on {holder.host}"
    by = f" by job {holder.job_id}" if holder.job_id else ""
    advice = f"run `interlock ls --pidfiles {path}` there"
    return Liveness("unknown", f"held {where}{by}, no way to ask from here: {advice}", holder)


def _is_here(host: str) -> bool:
    """Whether it is the name of this host: the whole one, or its first part where one of the two has no more."""
    host, here = host.lower(), os.uname().nodename.lower()
    return host == here or (not ("." in host and "." in here) and host.split(".")[0] == here.split(".")[0])

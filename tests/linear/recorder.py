"""Records what real processes do to one object, kills included, as a history for the checker."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import interlock
from crash.processes import Log, collected, fork, wait
from linear.checker import NOT_KNOWN, Operation

Actor = Callable[["Client"], None]


class Client:
    """One process in a recording."""

    def __init__(self, url: str, log: Log, who: int, seed: int) -> None:
        self.session = interlock.connect(url)
        self.log = log
        self.who = who
        self.random = random.Random(seed)

    def does(self, what: str, argument: Any, act: Callable[[], Any]) -> Any:
        """Perform one operation; its result is noted as `noted` makes it."""
        self.log.add("call", self.who, what, argument)
        result = act()
        self.log.add("return", self.who, noted(result))
        return result


def noted(result: Any) -> Any:
    """A grant by its token and whether it recovers; anything else as it is."""
    return [result.token, result.recovered] if isinstance(result, interlock.Grant) else result


def record(url: str, path: str, actor: Actor, *, seed: int, processes: int = 4, kills: int = 0) -> list[Operation]:
    """The history of some processes that act on one object, of which some are killed and replaced."""
    log, chance, who = Log(path), random.Random(seed), 0
    gate, opener = os.pipe()

    def act(who: int) -> None:
        if who <= processes:  # those that come later find it open already
            os.close(opener)
        os.read(gate, 1)  # until the parent closes the other end: all begin together
        actor(Client(url, log, who, seed * 1000 + who))

    def start() -> tuple[int, int]:
        nonlocal who
        who += 1
        return fork(lambda who=who: act(who)), who

    with collected():
        running = [start() for _ in range(processes)]
        os.close(opener)
        for _ in range(kills):
            time.sleep(chance.uniform(0.003, 0.02))
            pid, victim = running.pop(chance.randrange(len(running)))
            log.add("call", victim + 10_000, "die", victim)
            os.kill(pid, signal.SIGKILL)
            wait(pid)
            running.append(start())
        for pid, number in running:
            assert wait(pid) == 0, f"process {number} failed"
    os.close(gate)
    history = operations(log.entries())
    log.close()
    return history


def operations(entries: list[Any]) -> list[Operation]:
    """The operations of a log; who died is found under its own number."""
    found: list[Operation] = []
    open_calls: dict[int, int] = {}
    for time_, (kind, who, *rest) in enumerate(entries):
        if kind == "call":
            open_calls[who] = len(found)
            name = rest[1] if rest[0] == "die" else who
            found.append(Operation(name, rest[0], rest[1], NOT_KNOWN, time_, math.inf))
        else:
            index = open_calls.pop(who)
            found[index] = found[index]._replace(result=rest[0], returned=time_)
    return found

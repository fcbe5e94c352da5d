"""How many updates a second does a small JSON document take from many processes that all change it?

The peers are used as everybody uses them: take the lock, read, write a temporary file, rename it over the document.
With sync, all of them sync the file before the rename and the directory after it. Every process adds one to a counter,
so a lost update shows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from measure import Effort, Panel, Start, clock, fairness, together
from peers import (
    FASTENERS,
    FILE,
    FILELOCK,
    PORTALOCKER,
    Peer,
    fasteners_lock,
    filelock_lock,
    installed,
    portalocker_lock,
)
from report import Target

from interlock.files import JsonFile

_EIGHT = "8 processes update a JSON document of 1 kB"
_SYNCED = f"{_EIGHT}, synced to disk"
TARGETS = tuple(
    target
    for title in (_EIGHT, _SYNCED)
    for target in (
        Target(title, "per second", 1.5, most=False, than=FILELOCK),
        Target(title, "fairness", 2),
        Target(title, "least", 1, most=False),
        Target(title, "lost", 0),
    )
)
Update = Callable[[Callable[[Any], Any]], Any]


def measure(effort: Effort) -> list[Panel]:
    """Every peer with 2, 4, 8 and 16 processes, and with 8 that sync."""
    fast = [_panel(count, False, effort) for count in sorted(effort.sizes(8, 2, 4, 16))]
    return [*fast, _panel(8, True, effort)]


def _panel(count: int, sync: bool, effort: Effort) -> Panel:
    title = (_SYNCED if sync else _EIGHT).replace("8", str(count), 1)
    panel = Panel(title, "per second", FILELOCK, more_is_better=True)
    for _ in range(effort.repeats(3)):
        for peer in installed(_documents(sync)):
            _sample(panel, peer, count, effort)
    return panel


def _sample(panel: Panel, peer: Peer, count: int, effort: Effort) -> None:
    seconds = effort.seconds(0.9)
    path = os.path.join(peer.prepare(effort.fresh()), "document.json")
    with open(path, "w") as file:
        json.dump({"updates": 0, "text": "x" * 1000}, file)
    results = together(count, _update, peer.attach, path, seconds)
    counts = [counted for counted, _ in results]
    made = sum(every for _, every in results)
    with open(path) as file:
        kept = json.load(file)["updates"]
    panel.add(
        peer.name,
        per_second=sum(counts) / seconds,
        fairness=fairness(counts),
        least=min(counts),
        lost=made - kept,
    )


def _update(index: int, start: Start, attach: Callable[[str], Update], path: str, seconds: float) -> tuple[int, int]:
    """The updates that count, and all that were made."""
    update = attach(path)
    update(_one_more)  # opens whatever it needs, which is not measured
    window = start(seconds)
    counted, every = 0, 1
    while window.open():
        asked = clock()
        update(_one_more)
        counted += window.counts(asked)
        every += 1
    return counted, every


def _one_more(document: Any) -> Any:
    document["updates"] += 1
    return document


def _documents(sync: bool) -> tuple[Peer, ...]:
    return (
        Peer(FILE, str, lambda path: JsonFile(path, sync=sync).update),
        Peer(FILELOCK, str, lambda path: _by_hand(filelock_lock(path + ".lock"), path, sync)),
        Peer(PORTALOCKER, str, lambda path: _by_hand(portalocker_lock(path + ".lock"), path, sync)),
        Peer(FASTENERS, str, lambda path: _by_hand(fasteners_lock(path + ".lock"), path, sync)),
    )


def _by_hand(lock: Any, path: str, sync: bool) -> Update:
    """The idiom around somebody else's lock."""
    temporary = f"{path}.{os.getpid()}.tmp"

    def update(change: Callable[[Any], Any]) -> None:
        with lock:
            with open(path) as file:
                document = change(json.load(file))
            with open(temporary, "w") as file:
                json.dump(document, file)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if sync:
                _sync_directory(os.path.dirname(path))

    return update


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

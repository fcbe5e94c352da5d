"""Whether the sweep did what it had to, judged from the journal and the result files alone.

A training is everything one run of ``train.py`` noted. It lasted at least from its first note to its last, and until it
was killed if it was cut short.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train import checksum

Event = Mapping[str, Any]


@dataclass
class Training:
    """One run of the training program."""

    id: str
    config: str
    walker: str
    first: float
    last: float
    folds: int = 0
    ended: bool = False
    killed: float | None = None

    @property
    def until(self) -> float:
        """The last moment at which it is known to have run."""
        return self.last if self.killed is None else max(self.last, self.killed)


def trainings(events: Iterable[Event]) -> list[Training]:
    """Every training in the journal, in the order in which they began."""
    found: dict[str, Training] = {}
    for event in events:
        if "training" not in event:
            continue
        id, at = event["training"], event["at"]
        one = found.setdefault(id, Training(id, event["config"], event["walker"], at, at))
        if event["event"] == "kill":
            one.killed = at
            continue
        one.last = at
        one.folds = event.get("fold", one.folds)
        one.ended = one.ended or event["event"] == "end"
    return sorted(found.values(), key=lambda one: one.first)


def read_results(out: Path, configs: Iterable[str]) -> dict[str, str]:
    """The text of each result file that is there."""
    paths = {config: out / f"{config}.json" for config in configs}
    return {config: path.read_text() for config, path in paths.items() if path.exists()}


def judge(
    events: Sequence[Event], results: Mapping[str, str], configs: Iterable[str], walkers: Iterable[str], kills: int
) -> list[str]:
    """Everything that is wrong with a finished sweep, in words; nothing if all is well.

    Args: events: the journal. results: the text of each result file. configs, walkers: who and what had to take part.
          kills: how many trainings had to be cut short.
    """
    runs = trainings(events)
    return [
        *itertools.chain.from_iterable(
            _faults_of(config, [run for run in runs if run.config == config], results.get(config)) for config in configs
        ),
        *_faults_of_kills(runs, kills),
        *(f"{walker} did not finish its walk" for walker in sorted(set(walkers) - _walked(events))),
    ]


def _faults_of(config: str, runs: Sequence[Training], result: str | None) -> Iterator[str]:
    ends = [run for run in runs if run.ended]
    if len(ends) != 1:
        who = f" (by {', '.join(run.walker for run in ends)})" if ends else ""
        yield f"{config}: completed {len(ends)} times, not once{who}"
    for one, other in itertools.combinations(runs, 2):
        together = min(one.until, other.until) - max(one.first, other.first)
        if together >= 0:
            yield f"{config}: {one.walker} and {other.walker} trained it at the same time, for {together:.2f} s"
    if result is None:
        yield f"{config}: no result"
        return
    try:
        document = json.loads(result)
        whole = document["sha256"] == checksum(document)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        yield f"{config}: the result file is torn"
    elif document["training"] not in [run.id for run in ends]:
        yield f"{config}: the result was written by a training that did not complete"


def _faults_of_kills(runs: Sequence[Training], wanted: int) -> Iterator[str]:
    killed = [(run, run.killed) for run in runs if run.killed is not None]
    if len(killed) != wanted:
        yield f"{len(killed)} trainings were killed, not {wanted}"
    for run, at in killed:
        if run.ended:
            yield f"{run.config}: {run.walker} was killed, but its training completed"
        elif run.last > at:
            yield f"{run.config}: the training of {run.walker} went on after it was killed"
        if not any(other.ended and other.config == run.config and other.first > run.first for other in runs):
            yield f"{run.config}: nobody took over from {run.walker}, which was killed"


def _walked(events: Iterable[Event]) -> set[str]:
    return {event["walker"] for event in events if event["event"] == "walked"}

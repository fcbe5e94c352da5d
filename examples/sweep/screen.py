"""What the sweep shows: a table that redraws itself on a terminal, a line per event anywhere else."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from train import FOLDS
from verdict import Event, Training, trainings

SAYS = {
    "start": "begins     {config}",
    "end": "completes  {config}",
    "kill": "KILLED     in the middle of {config}",
    "walk": "sets out",
    "walked": "finished",
}


class Screen:
    """Shows the journal as it grows."""

    def __init__(self, configs: Sequence[str], began: float) -> None:
        self._configs = configs
        self._began = began
        self._shown = 0
        self._height = 0

    def update(self, events: Sequence[Event], now: float) -> None:
        """Show what is new."""
        if sys.stdout.isatty():
            self._redraw(events, now)
        else:
            self._append(events[self._shown :])
        self._shown = len(events)

    def _append(self, events: Sequence[Event]) -> None:
        for event in events:
            if event["event"] in SAYS:
                says = SAYS[event["event"]].format_map(event)
                print(f"{event['at'] - self._began:5.1f} s  {event['walker']}  {says}", flush=True)

    def _redraw(self, events: Sequence[Event], now: float) -> None:
        lines = [f"{now - self._began:5.1f} s", *progress(self._configs, events)]
        up = f"\x1b[{self._height}A" if self._height else ""
        print(up + "".join(f"\x1b[2K{line}\n" for line in lines), end="", flush=True)
        self._height = len(lines)


def progress(configs: Sequence[str], events: Sequence[Event]) -> list[str]:
    """A line per configuration: how far it is, and who is at it or was."""
    runs = trainings(events)
    return [f"  {config:16} {_standing([run for run in runs if run.config == config])}" for config in configs]


def _standing(runs: Sequence[Training]) -> str:
    lost = "".join(f"   ({run.walker} was killed)" for run in runs if run.killed is not None)
    last = next((run for run in reversed(runs) if run.killed is None), None)
    if last is None:
        return "." * FOLDS + lost
    bar = "#" * last.folds + "." * (FOLDS - last.folds)
    return f"{bar} {last.walker}{'' if last.ended else ' ...'}{lost}"


def report(configs: Sequence[str], walkers: Sequence[str], events: Sequence[Event], results: Mapping[str, str]) -> str:
    """The two tables at the end: what became of each configuration, and what each walker did."""
    return "\n".join([*_configurations(configs, trainings(events), results), "", *_walks(walkers, events)])


def _configurations(configs: Sequence[str], runs: Sequence[Training], results: Mapping[str, str]) -> list[str]:
    lines = [f"{'configuration':16} {'accuracy':>8}  {'trained by':10} {'seconds':>7} {'attempts':>8}"]
    for config in configs:
        tried = [run for run in runs if run.config == config]
        done = next((run for run in tried if run.ended), None)
        by, seconds = (done.walker, f"{done.last - done.first:.1f}") if done else ("nobody", "-")
        lost = ", ".join(run.walker for run in tried if run.killed is not None)
        why = f"  {lost} was killed in it" if lost else ""
        lines.append(f"{config:16} {_accuracy(results.get(config)):>8}  {by:10} {seconds:>7} {len(tried):8}{why}")
    return lines


def _accuracy(result: str | None) -> str:
    try:
        document: dict[str, Any] = json.loads(result or "")
        return f"{sum(document['accuracies']) / len(document['accuracies']):.4f}"
    except (ValueError, KeyError):
        return "-"


def _walks(walkers: Sequence[str], events: Sequence[Event]) -> list[str]:
    completed = Counter(event["walker"] for event in events if event["event"] == "end")
    killed = Counter(event["walker"] for event in events if event["event"] == "kill")
    visits = [event for event in events if event["event"] == "visit"]
    held = Counter(event["walker"] for event in visits if event["code"] != 0)
    fine = Counter(event["walker"] for event in visits if event["code"] == 0)
    lines = [f"{'':10} {'trained':>7} {'skipped, done':>14} {'skipped, held':>14} {'killed':>7}"]
    for who in walkers:
        done = fine[who] - completed[who]
        lines.append(f"{who:10} {completed[who]:7} {done:14} {held[who]:14} {killed[who]:7}")
    return lines

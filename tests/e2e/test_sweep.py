"""The sweep of examples/sweep: its verdict finds what is wrong, and a small sweep survives a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SWEEP = Path(__file__).parents[2] / "examples" / "sweep"
CONFIGS = ["small", "large"]
WALKERS = ["walker 1", "walker 2"]


@pytest.fixture(scope="module")
def verdict() -> Iterator[ModuleType]:
    """The module under test, imported as the scripts beside it import it."""
    sys.path.insert(0, str(SWEEP))
    try:
        import verdict

        yield verdict
    finally:
        sys.path.remove(str(SWEEP))


class Log:
    """A journal and the results of a sweep that never took place."""

    def __init__(self, verdict: ModuleType) -> None:
        self.events: list[dict[str, Any]] = []
        self.results: dict[str, str] = {}
        self._verdict = verdict

    def train(self, id: str, config: str, walker: str, start: float, end: float, *, last: str = "end") -> None:
        """A training from `start` to `end`; one that ends with ``end`` leaves its result."""
        for event, at in (("start", start), ("fold", (start + end) / 2), (last, end)):
            self.events.append({"event": event, "at": at, "training": id, "config": config, "walker": walker})
        if last == "end":
            document = {"training": id, "accuracies": [0.5]}
            self.results[config] = json.dumps({**document, "sha256": self._verdict.checksum(document)})

    def faults(self) -> list[str]:
        """What the verdict says of it."""
        walked = [{"event": "walked", "at": 99.0, "walker": walker} for walker in WALKERS]
        faults: list[str] = self._verdict.judge(self.events + walked, self.results, CONFIGS, WALKERS, kills=1)
        return faults


@pytest.fixture
def log(verdict: ModuleType) -> Log:
    """A good sweep: the first training of ``large`` is killed and taken over."""
    log = Log(verdict)
    log.train("a", "small", "walker 1", 0.0, 1.0)
    log.train("b", "large", "walker 2", 0.0, 2.0, last="kill")
    log.train("c", "large", "walker 1", 3.0, 4.0)
    return log


def test_a_good_sweep_is_good(log: Log) -> None:
    """The verdict finds no fault where there is none; every other test changes one thing about this log."""
    assert log.faults() == []


def test_an_overlap_is_found(log: Log) -> None:
    """A training that begins before the killed one was dead is a fault, although only one of them completed."""
    log.events = [event for event in log.events if event.get("training") != "c"]
    log.train("c", "large", "walker 1", 1.75, 4.0)
    assert log.faults() == ["large: walker 2 and walker 1 trained it at the same time, for 0.25 s"]


def test_a_training_that_survives_its_kill_is_found(log: Log) -> None:
    """A child that goes on training after its walker was killed is a fault."""
    log.events.append({"event": "fold", "at": 2.5, "training": "b", "config": "large", "walker": "walker 2", "fold": 4})
    assert log.faults() == ["large: the training of walker 2 went on after it was killed"]


def test_a_double_completion_is_found(log: Log) -> None:
    """Two completed trainings of one configuration are a fault, even one after the other."""
    log.train("d", "small", "walker 2", 5.0, 6.0)
    assert log.faults() == ["small: completed 2 times, not once (by walker 1, walker 2)"]


def test_a_missing_configuration_is_found(log: Log) -> None:
    """A configuration that nobody trained is a fault, and so is its missing result."""
    log.events = [event for event in log.events if event.get("training") != "a"]
    del log.results["small"]
    assert log.faults() == ["small: completed 0 times, not once", "small: no result"]


@pytest.mark.parametrize(
    "tear", [lambda text: text[:-9], lambda text: text.replace("0.5", "0.6"), lambda _: "", lambda _: "[]"]
)
def test_a_torn_result_is_found(log: Log, tear: Any) -> None:
    """A result that is cut off, changed, empty, or something else entirely is a fault."""
    log.results["small"] = tear(log.results["small"])
    assert log.faults() == ["small: the result file is torn"]


def test_a_result_of_another_training_is_found(log: Log) -> None:
    """A whole result that the completed training did not write is a fault."""
    log.train("late", "small", "walker 2", 5.0, 6.0)
    log.events = [event for event in log.events if event.get("training") != "late"]
    assert log.faults() == ["small: the result was written by a training that did not complete"]


def test_a_kill_nobody_made_up_for_is_found(log: Log) -> None:
    """A killed training that nobody took over is a fault."""
    log.events = [event for event in log.events if event.get("training") != "c"]
    assert "large: nobody took over from walker 2, which was killed" in log.faults()


def test_a_sweep_without_its_kill_is_found(log: Log) -> None:
    """A sweep in which nobody was killed proves less than it says, and is a fault."""
    log.events = [event for event in log.events if event.get("training") != "b"]
    assert log.faults() == ["0 trainings were killed, not 1"]


def test_a_walker_that_stops_is_found(log: Log) -> None:
    """A process that did not walk to its end is a fault."""
    faults = log._verdict.judge(log.events, log.results, CONFIGS, WALKERS[:1], kills=1)
    assert faults == ["walker 1 did not finish its walk"]


def sweep(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A small sweep, run as a user would run it."""
    command = [sys.executable, str(SWEEP / "sweep.py"), "--quick", "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_a_small_sweep_survives_a_kill(tmp_path: Path) -> None:
    """Four real processes with one SIGKILL train six configurations once each, in a directory with spaces."""
    done = sweep(tmp_path / "in a directory with spaces")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERDICT: good." in done.stdout


def test_the_same_sweep_fails_without_interlock(tmp_path: Path) -> None:
    """The same processes without interlock train configurations more than once, and the verdict says so."""
    done = sweep(tmp_path / "out", "--unprotected")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "completed 4 times, not once" in done.stderr

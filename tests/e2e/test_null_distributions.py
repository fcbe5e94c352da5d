"""The run of examples/null_distributions.py: a kill loses nothing, a second run computes nothing, verdicts can fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from interlock.entries import Note

EXAMPLES = Path(__file__).parents[2] / "examples"
GOOD = "VERDICT: good. Every analysis has its result, and no null distribution was lost, damaged or computed twice."


def run(out: Path, *options: str) -> str:
    """What a small run says, which must be good."""
    command = [sys.executable, str(EXAMPLES / "null_distributions.py"), "--quick", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.endswith(GOOD + "\n")
    return done.stdout


def number(name: str, said: str) -> int:
    """The number in a line of the summary."""
    found = re.search(rf"^{name} +(\d+)( |$)", said, re.MULTILINE)
    assert found, said
    return int(found[1])


def results(out: Path) -> dict[str, Any]:
    """The scores and p-values of each analysis."""
    return {path.name: json.loads(path.read_text())["characters"] for path in (out / "results").glob("*.json")}


def rows(said: str) -> list[list[int]]:
    """The table of the workers: analyses, computed, found, waited for."""
    found = re.findall(r"^\d+(?:, [a-z ]+?)? +(\d+) +(\d+) +(\d+) +(\d+)$", said, re.MULTILINE)
    return [[int(cell) for cell in row] for row in found]


def test_two_runs(tmp_path: Path) -> None:
    """The first computes everything once though a worker is killed; the second nothing, with the same results."""
    out = tmp_path / "in a directory with spaces"
    first = run(out, "--workers", "4")
    assert re.search(
        r"^ +\d+\.\d s  worker \d is killed while it computes \d+ of \d+, and started", first, re.MULTILINE
    )
    assert "49 of 49 null distributions,   24 of 24 analyses" in first
    assert (number("on the disk before", first), number("computed", first)) == (0, 49)
    assert sum(analyses for analyses, *_ in rows(first)) == 24
    assert len(rows(first)) == 5  # of four workers, one of which was started again
    picture, found = out / "significance.png", results(out)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert len(found) == 24
    picture.unlink()

    second = run(out, "--workers", "4")
    assert (number("on the disk before", second), number("computed", second)) == (49, 0)
    assert rows(second) == [[6, 0, 98, 0]] * 4
    assert "killed" not in second
    assert picture.exists()
    assert results(out) == found


def test_p_values_are_those_of_copairs(tmp_path: Path, example: ModuleType) -> None:
    """One analysis, computed from the pictures and from copairs' own simulation, gives the same p-values."""
    import numpy as np
    from copairs.compute import random_ap

    drawn = example.glyphs.draw("Technical symbols")
    scores = example.glyphs.average_precision(drawn, 4)
    seed = np.random.default_rng(example.SEED).integers(8096)
    confs, glyphs = np.unique(example.glyphs.configurations(drawn), axis=0, return_inverse=True)
    null_dists = np.array([random_ap(300, *conf, seed) for conf in confs])[glyphs]
    right = example.glyphs.significance(drawn, scores, null_dists)
    assert example.analyse("Technical symbols", 4, 300, tmp_path) == right


@pytest.fixture
def example() -> Iterator[ModuleType]:
    """The example's main module, imported as a script imports its neighbours."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import null_distributions

        yield null_distributions
    finally:
        sys.path.remove(str(EXAMPLES))


def told(**changes: Any) -> SimpleNamespace:
    """A run that never took place: processes 7 and 8 computed one distribution each, 9 was killed after another."""
    notes = [Note(f"({k}, 20, 1, 100, 1)", "npy", 0.0, f"ada@node pid {pid} (run.py)", 1.0, 9, 0) for k, pid in
             ((5, 7), (6, 8), (4, 9))]  # fmt: skip
    counts = {"hits": 1, "misses": 2, "computed": 1, "waited": 1, "seconds_saved": 2.0}
    run = {
        "workers": [SimpleNamespace(pids=[7]), SimpleNamespace(pids=[9, 8])],
        "killed": 9,
        "analyses": ["one", "two"],
        "needed": {(4, 20), (5, 20), (6, 20)},
        "before": set(),
        "results": lambda: [{"pid": pid, "counts": counts} for pid in (7, 8)],
        "distributions": lambda: notes,
        "new": lambda: notes,
        "cache": SimpleNamespace(verify=list),
    }
    return SimpleNamespace(**{**run, **changes})


def test_the_verdict_accepts_what_is_good(example: ModuleType) -> None:
    """Two processes that computed what the entries say they did, and a third that was killed, are no fault."""
    assert example.report.faults(told()) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"analyses": ["one", "two", "three"]}, "1 analyses have no result"),
        ({"needed": {(4, 20), (5, 20), (6, 20), (7, 20)}}, "1 null distributions are missing"),
        ({"cache": SimpleNamespace(verify=lambda: ["entry"])}, "1 entries of the cache are damaged"),
        ({"new": lambda: told().new()[:1]}, "of what 2, started again computed, others computed something too"),
    ],
)
def test_the_verdict_finds_what_is_wrong(example: ModuleType, changes: dict[str, Any], fault: str) -> None:
    """A missing result, a missing or damaged distribution, and one that was computed twice are each named."""
    assert example.report.faults(told(**changes)) == [f"  {fault}"]

"""The training of examples/ddp_genome.py: built once and never again, failing all together; its verdict can fail."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from launchers.launching import TORCHRUN, Done, launch

EXAMPLE = Path(__file__).parents[2] / "examples" / "ddp_genome.py"
WORKERS = 2


def train(out: Path, *options: str) -> Done:
    """Two ranks, started as a user would start them."""
    return launch((*TORCHRUN, "--nproc-per-node=2", str(EXAMPLE), "--out", str(out), *options))[0]


def rows(done: Done) -> dict[str, str]:
    """The table of a run that went well."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERDICT: good." in done.stdout
    return dict(re.findall(r"^(\w+(?: \w+)*?) {2,}(.*)$", done.stdout, re.MULTILINE))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that all runs share."""
    return tmp_path_factory.mktemp("runs") / "in a directory with spaces"


@pytest.fixture(scope="module")
def first(out: Path) -> Done:
    """The first run there."""
    return train(out)


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The example as a module, to judge what never happened."""
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        import ddp_genome

        yield ddp_genome
    finally:
        sys.path.remove(str(EXAMPLE.parent))


def test_the_first_run_builds_once(first: Done) -> None:
    """One rank builds while the other waits for it; two ranks and their four workers all open what it built."""
    found = rows(first)
    (builder,) = re.findall(r"rank (\d): building .*\.gff\.db", first.stderr)
    assert re.findall(r"rank (\d): waited .* for rank (\d)", first.stderr) == [(str(1 - int(builder)), builder)]
    assert found["builds"] == f"1, by rank {builder}"
    assert found["opened by"] == "2 ranks + 4 workers"


def test_the_next_run_builds_nothing(out: Path, first: Done) -> None:
    """The database is found, and all that learned from it learn the same again."""
    again = train(out)
    assert "building" not in again.stderr
    told, before = rows(again), rows(first)
    assert told["builds"] == "0"
    assert [told[row] for row in ("opened by", "loss", "accuracy")] == [
        before[row] for row in ("opened by", "loss", "accuracy")
    ]


@pytest.mark.usefixtures("first")
def test_a_rank_that_fails_is_named_by_the_other(out: Path) -> None:
    """The other rank raises as well, long before its patience ends, and says who failed and why."""
    done = train(out, "--fail-rank", "1")
    assert done.returncode == 1
    assert "VERDICT" not in done.stdout
    said = dict(re.findall(r"^[\d:]+ rank (\d): (\w+: .*)$", done.stderr, re.MULTILINE))
    assert said == {
        "0": "BrokenBarrier: aborted: rank 1 raised RuntimeError: told to fail",
        "1": "RuntimeError: told to fail",
    }


def judge(example: ModuleType, builds: int = 1, accuracy: float = 0.7, **changes: Any) -> list[str]:
    """What the verdict says of two ranks; rank 1 built, all went well, but for what is changed of rank 0's report."""

    def readers(rank: int) -> list[Any]:
        pids = [100 * rank + worker for worker in range(-1, WORKERS)]
        return [
            example.Reader(worker, pid, pid, int((rank, worker) == (1, -1)))
            for worker, pid in zip(range(-1, WORKERS), pids, strict=True)
        ]

    reports = [example.Report([0.6, 0.5], readers(rank), [1.0, 2.0]) for rank in (0, 1)]
    reports[0] = reports[0]._replace(**{name: change(getattr(reports[0], name)) for name, change in changes.items()})
    faults: list[str] = example.judge(reports, WORKERS, builds, accuracy, 0.55)
    return faults


def test_a_good_run_is_good(example: ModuleType) -> None:
    """The verdict finds no fault where there is none; each case below changes one thing about that."""
    assert judge(example) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"builds": 0}, "the database was built 1 times, not 0"),
        ({"readers": lambda all: [all[0]._replace(built=1), *all[1:]]}, "the database was built 2 times, not 1"),
        ({"readers": lambda all: all[:-1]}, "a reader is missing, or came twice"),
        ({"readers": lambda all: [*all, all[-1]._replace(pid=7, opener=7)]}, "a reader is missing, or came twice"),
        ({"readers": lambda all: [all[0]._replace(opener=7), *all[1:]]}, "a process read what another one had opened"),
        ({"losses": lambda _: [0.6, 0.59]}, "the loss did not fall"),
        ({"accuracy": 0.56}, "the model has learned nothing"),
        ({"weights": lambda _: [1.0, 2.000001]}, "the ranks have different models"),
    ],
)
def test_what_is_wrong_is_found(example: ModuleType, changes: dict[str, Any], fault: str) -> None:
    """Each thing that the verdict denies would be found if it were so, and nothing else with it."""
    assert judge(example, **changes) == [fault]

"""The page on parallel training: its program runs, its excerpts are from the example, its faults end as it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from launchers.launching import TORCHRUN, Done, launch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "parallel-training.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
EXCERPTS = [block for block in BLOCKS if block.startswith("# examples/")]
FILES = {name: block for block in BLOCKS for name in re.findall(r'\A"""(\w+\.py):', block)}
PROGRAM = "".join(block for block in BLOCKS if block not in [*EXCERPTS, *FILES.values()])
STORIES = dict(re.findall(r"^\$ python ranks\.py (\w+)\n((?:(?!\$|```).*\n)+)", PAGE, re.MULTILINE))
CHECKS = """
logging.info("saw %d rows, %d spectra, and an index %s", seen, len(spectra), index)
session.barrier("end").wait(timeout=60)
fast.unlink(missing_ok=True)
"""


def run(directory: Path, name: str, program: str, command: tuple[str, ...], *arguments: str) -> Done:
    """Run a program of the page as a file, in an empty directory."""
    (directory / name).write_text(program)
    (done,) = launch(("env", f"--chdir={directory}", *command, name, *arguments))
    return done


@pytest.mark.parametrize("size", [1, 2])
def test_the_program_of_the_page(tmp_path: Path, size: int) -> None:
    """All blocks, one after the other, in one rank and in two: all is done once, and all ranks have it."""
    command = (*TORCHRUN, f"--nproc-per-node={size}") if size > 1 else (sys.executable,)
    done = run(tmp_path, "program.py", PROGRAM + CHECKS, command)
    assert done.returncode == 0, done.stderr
    said = [line.partition(": ") for line in lines(done.stderr)]
    does = sorted(what for _, _, what in said if not what.startswith("saw "))
    blocks = [f"computes block {block}" for block in range(10)]
    assert does == sorted([*[f"one of {size}"] * size, "builds table.npy", "computes the statistics", *blocks])
    saw = {rank: what for rank, _, what in said if what.startswith("saw ")}
    assert set(saw) == {f"rank {rank}" for rank in range(size)}
    expected = rf"saw {10_000 // size} rows, 10 spectra, and an index built by process \d"
    assert all(re.fullmatch(expected, what) for what in saw.values()), saw


def test_copies_of_a_program_meet(tmp_path: Path) -> None:
    """A program that starts itself again, as Lightning's launcher does, is one run of two ranks."""
    done = run(tmp_path, "lightning_like.py", FILES["lightning_like.py"], (sys.executable,))
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"rank \d: .*", done.stderr)) == [f"rank {rank}: built by rank 0" for rank in (0, 1)]


@pytest.mark.parametrize("story", STORIES)
def test_what_a_rank_is_told(tmp_path: Path, story: str) -> None:
    """Each fault ends with the messages on the page, but for what is another one in each run."""
    done = run(tmp_path, "ranks.py", FILES["ranks.py"], (sys.executable,), story)
    assert lines(done.stderr) == lines(STORIES[story])


def test_every_story_is_told() -> None:
    """The page shows the end of every fault that its program offers."""
    offered = re.findall(r"^def (\w+)\(session\)", FILES["ranks.py"], re.MULTILINE)
    assert sorted(offered) == sorted(STORIES)


def test_the_excerpts_are_from_the_example() -> None:
    """What the page shows of the example is in it, word for word."""
    assert len(EXCERPTS) == 3
    for excerpt in EXCERPTS:
        file, _, text = excerpt.removeprefix("# ").partition("\n")
        assert text in (ROOT / file).read_text()


def lines(said: str) -> list[str]:
    """What the ranks said, sorted, but for who, where and when, and for how long they waited."""
    said = re.sub(r"file://\S+/jobs/[0-9a-f]+", "SCOPE", said)
    said = re.sub(r"\S+@\S+ pid \d+ \(.*?\), rank", "WHO, rank", said)
    said = re.sub(r"since [\d:]+ \(.*?\)", "SINCE WHEN", said)
    return sorted(line for line in re.findall(r"^rank \d: .*$", said, re.MULTILINE) if "waiting for <" not in line)

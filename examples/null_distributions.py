"""A significance run by eight workers that need the same null distributions; one of them is killed in the middle.

    python examples/null_distributions.py      # once, and then again
    python examples/null_distributions.py --help

Each worker does its share of 88 analyses (see `glyphs`) as a task of a cluster job would: a process of its own, with
one processor, that knows nothing of the others. The null distributions are in a cache that all share, so that each is
computed once among them, and found by every later run.

Needs ``pip install interlock[cache] matplotlib tqdm``. Exit code 0 if nothing was lost or computed twice, else 1.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typefaces import glyphs, report
from typefaces.glyphs import Glyphs

import interlock
from interlock.compat.copairs import cache_of, get_null_dists
from interlock.entries import Note
from interlock.files import atomic_write
from interlock.inspection import survey

QUICK = ("Latin letters", "Letterlike symbols", "Technical symbols")
SEED = 2026
LOOK_S = 0.05  # between two looks at the workers
LIMIT_S = 600.0  # when a run is given up
GOOD = "VERDICT: good. Every analysis has its result, and no null distribution was lost, damaged or computed twice."
SPAWN = multiprocessing.get_context("spawn")


def work(analyses: Sequence[tuple[str, int]], processor: int, null_size: int, out: Path) -> None:
    """What a worker does: its analyses one by one, each with a file for its result; what has one is done already."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {processor})
    cache = cache_of(out / "cache")
    for alphabet, grid in analyses:
        path = out / "results" / f"{alphabet}, {grid} pixels.json"
        if path.exists():
            continue
        before = cache.stats()
        characters = analyse(alphabet, grid, null_size, out)
        after = cache.stats()
        counts = {name: getattr(after, name) - getattr(before, name) for name in report.COUNTS}
        result = {"alphabet": alphabet, "grid": grid, "pid": os.getpid(), "counts": counts, "characters": characters}
        with atomic_write(path) as file:
            json.dump(result, file)


def analyse(alphabet: str, grid: int, null_size: int, out: Path) -> dict[str, tuple[float, float]]:
    """For each character its mean average precision and its p-value."""
    drawn = drawings(alphabet, out)
    confs, rows = np.unique(glyphs.configurations(drawn), axis=0, return_inverse=True)
    null_dists = get_null_dists(confs, null_size, SEED, out / "cache", progress_bar=False)
    return glyphs.significance(drawn, glyphs.average_precision(drawn, grid), null_dists[rows])


def drawings(alphabet: str, out: Path) -> Glyphs:
    """The glyphs of an alphabet, which are drawn once, too; all processes map the same file."""
    cache = interlock.connect(out / "locks").cache("glyphs")
    return Glyphs(**cache.get_or_compute(alphabet, lambda: dataclasses.asdict(glyphs.draw(alphabet))))


class Worker:
    """One worker, which is started again where it was killed. `pids` are all that it has been."""

    def __init__(self, analyses: Sequence[tuple[str, int]], *options: Any) -> None:
        self.analyses = analyses
        self._options = options
        self.pids: list[int] = []

    def start(self) -> None:
        self._process = SPAWN.Process(target=work, args=(self.analyses, *self._options), daemon=True)
        self._process.start()
        self.pids.append(self._process.pid or 0)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        self._process.kill()
        self._process.join()


class Run:
    """All analyses by all workers, and what the disk tells of them."""

    def __init__(self, alphabets: Sequence[str], workers: int, null_size: int, out: Path) -> None:
        self.alphabets = alphabets
        self.analyses = [(alphabet, grid) for alphabet in alphabets for grid in glyphs.GRIDS]
        self.out = out
        self.null_size = null_size
        self.cache = cache_of(out / "cache")
        confs = [glyphs.configurations(drawings(alphabet, out)) for alphabet in alphabets]
        self.needed = {(int(num_pos), int(total)) for num_pos, total in np.concatenate(confs)}
        self.before = {note.key for note in self.distributions()}
        self.killed = 0  # the pid of the process that was killed
        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        self.workers = [
            Worker(self.analyses[number::workers], processors[number % len(processors)], null_size, out)
            for number in range(workers)
        ]

    def distributions(self) -> list[Note]:
        """What the distributions on the disk that this run needs say of themselves."""
        notes = [(listed.note, ast.literal_eval(listed.note.key)) for listed in self.cache.listing()]
        return [note for note, key in notes if key[:2] in self.needed and key[3] == self.null_size]

    def new(self) -> list[Note]:
        """Those of them that were not there before."""
        return [note for note in self.distributions() if note.key not in self.before]

    def results(self) -> list[dict[str, Any]]:
        """The results of the analyses that are finished."""
        return [json.loads(path.read_text()) for path in (self.out / "results").glob("*.json")]

    def watch(self, progress: report.Progress) -> None:
        """Start the workers, see to it that one is killed in the middle, and wait until all have finished."""
        deadline = time.monotonic() + LIMIT_S
        for worker in self.workers:
            worker.start()
        while any(worker.code is None for worker in self.workers):
            if time.monotonic() > deadline:
                sys.exit(f"the run has not finished within {LIMIT_S:g} s")
            progress.show(len(self.distributions()), len(self.results()))
            if not self.killed and 4 * len(self.new()) > len(self.needed):
                self.strike(progress)
            time.sleep(LOOK_S)
        progress.show(len(self.distributions()), len(self.results()))
        if any(worker.code for worker in self.workers):
            sys.exit("a worker failed; what it said is above")

    def strike(self, progress: report.Progress) -> None:
        """Kill a worker in the middle of the computation of a distribution, and start it again.

        It is frozen first, so that the computation cannot end between the look and the blow.
        """
        for number, worker in enumerate(self.workers, 1):
            pid = worker.pids[-1]
            if pid in self.computing():
                os.kill(pid, signal.SIGSTOP)
                conf = self.computing().get(pid)
                if conf:
                    worker.kill()
                    self.killed = pid
                    worker.start()
                    progress.say(f"worker {number} is killed while it computes {conf}, and started again")
                    return
                os.kill(pid, signal.SIGCONT)

    def computing(self) -> dict[int, str]:
        """The processes that compute a distribution at this moment, and which."""
        found = {}
        for status in survey(self.cache.session.store, "cache/"):
            num_pos, total, *_ = ast.literal_eval(status.name.partition(" ")[2])
            found.update({part.life.holder.pid: f"{num_pos} of {total}" for part in status.holders if part.life.holder})
        return found

    def end(self) -> None:
        """Leave nothing running."""
        for worker in self.workers:
            if worker.pids and worker.code is None:
                worker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/null_distributions"), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a rehearsal of a few seconds: three alphabets only")
    parser.add_argument("--workers", type=int, default=8, help="default: %(default)s")
    parser.add_argument(
        "--null-size", type=int, default=5000, help="draws of a null distribution; default: %(default)s"
    )
    arguments = parser.parse_args()

    out = arguments.out.resolve()
    shutil.rmtree(out / "results", ignore_errors=True)
    (out / "results").mkdir(parents=True)
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # for the workers, which inherit it
    run = Run(QUICK if arguments.quick else tuple(glyphs.ALPHABETS), arguments.workers, arguments.null_size, out)
    print(f"{len(run.analyses)} analyses by {len(run.workers)} workers need {len(run.needed)} null distributions")
    print(f"{len(run.before)} of them are in {out / 'cache'}\n", flush=True)
    began = time.monotonic()
    progress = report.Progress(len(run.needed), len(run.analyses), began)
    try:
        run.watch(progress)
    finally:
        progress.close()
        run.end()
    print(f"\n{report.table(run, time.monotonic() - began)}\n")
    report.plot(run, SEED, out / "significance.png")
    print(f"Plot: {out / 'significance.png'}\n")
    faults = report.faults(run)
    print("\n".join(["VERDICT: something went wrong.", *faults]) if faults else GOOD)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

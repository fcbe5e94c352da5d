"""A sweep over hyper-parameters by eight processes at once, two of which are killed in the middle of a training.

    python sweep.py                  # the whole sweep; needs scikit-learn
    python sweep.py --quick          # a rehearsal of a few seconds
    python sweep.py --unprotected    # the same without interlock: the verdict finds what goes wrong

Exit code 0 if the verdict is good, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import journal
from grid import GRID, QUICK
from screen import Screen, report
from train import FOLDS
from verdict import Training, judge, read_results, trainings

HERE = Path(__file__).parent
LOOK_S = 0.1  # between two looks at the journal
AWAY_S = 1.0  # until a killed walker is started again
LIMIT_S = 600.0  # when a sweep is given up
QUICK_LIMIT_S = 60.0


class Walker:
    """One task of the array, with everything it starts in a process group of its own."""

    def __init__(self, name: str, out: Path, options: Sequence[str]) -> None:
        self.name = name
        self._out = out
        self._command = [sys.executable, str(HERE / "walk.py"), "--out", str(out), *options]
        self.back_at = 0.0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "INTERLOCK_URL": str(self._out / "locks"),
            "SWEEP_WALKER": self.name,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with open(self.said, "ab") as said:
            return subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    @property
    def said(self) -> Path:
        """Where its output goes."""
        return self._out / f"{self.name.replace(' ', '-')}.txt"

    def kill_in(self, config: str, training: str) -> bool:
        """Kill it and all it started in the middle of a training; False if that has just ended.

        It is frozen first, so that the training cannot end between the look and the blow.
        """
        os.killpg(self.process.pid, signal.SIGSTOP)
        ended = any(run.id == training and run.ended for run in trainings(journal.read(self._out)))
        if not ended:
            journal.note(self._out, "kill", config=config, training=training, walker=self.name)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.back_at = time.monotonic() + AWAY_S
            return True
        os.killpg(self.process.pid, signal.SIGCONT)
        return False

    def come_back(self) -> None:
        """Start it again once it has been away for long enough."""
        if self.back_at and time.monotonic() > self.back_at:
            self.back_at = 0.0
            self.process = self._start()

    def finished(self) -> bool:
        """Whether it has ended by itself. Exits if it failed."""
        if self.back_at:
            return False
        code = self.process.poll()
        if code:
            sys.exit(f"{self.name} failed with exit code {code}; it said:\n{self.said.read_text()[-2000:]}")
        return code == 0

    def end(self) -> None:
        """Leave nothing running."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def run(walkers: Sequence[Walker], out: Path, screen: Screen, kills: int, limit_s: float) -> None:
    """Watch the walkers until all have finished, and kill some of them on the way."""
    deadline = time.monotonic() + limit_s
    killed: list[str] = []
    while sum(walker.finished() for walker in walkers) < len(walkers):
        if time.monotonic() > deadline:
            sys.exit(f"the sweep has not finished within {limit_s:g} s")
        events = journal.read(out)
        screen.update(events, time.monotonic())
        runs = trainings(events)
        if len(killed) < kills and sum(run.ended for run in runs) > 2 * len(killed):
            killed += strike([walker for walker in walkers if walker.name not in killed], runs)
        for walker in walkers:
            walker.come_back()
        time.sleep(LOOK_S)
    screen.update(journal.read(out), time.monotonic())


def strike(walkers: Sequence[Walker], runs: Sequence[Training]) -> list[str]:
    """Kill one walker that is in the middle of a training, if there is one; its name."""
    for walker in walkers:
        for run in runs:
            inside = run.walker == walker.name and 0 < run.folds < FOLDS - 1 and not run.ended and run.killed is None
            if inside and walker.kill_in(run.config, run.id):
                return [walker.name]
    return []


def conclude(out: Path, configs: Sequence[str], names: Sequence[str], kills: int) -> None:
    """Print the tables and the verdict. Exits if it is not good."""
    events, results = journal.read(out), read_results(out, configs)
    print(f"\n{report(configs, names, events, results)}\n")
    faults = judge(events, results, configs, names, kills)
    if faults:
        sys.exit("\n".join(["VERDICT: something went wrong.", *(f"  {fault}" for fault in faults)]))
    print(
        f"VERDICT: good. {len(configs)} configurations, each trained to its end exactly once, never two trainings of\n"
        f"one at a time, every result whole, and what a killed process left undone was taken over: {kills} of {kills}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a new directory for results, journal and locks (default: temporary)")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: six light configurations, four processes")
    parser.add_argument("--unprotected", action="store_true", help="without interlock, to see what it is for")
    arguments = parser.parse_args()

    out = (arguments.out or Path(tempfile.mkdtemp(prefix="sweep-")) / "out").resolve()
    out.mkdir(parents=True)
    configs = list(QUICK if arguments.quick else GRID)
    number, kills = (4, 1) if arguments.quick else (8, 2)
    names = [f"walker {n}" for n in range(1, number + 1)]
    print(f"{number} processes walk over {len(configs)} configurations; {kills} will be killed.\nAll is in {out}\n")

    options = [f"--{flag}" for flag in ("quick", "unprotected") if getattr(arguments, flag)]
    began = time.monotonic()
    walkers = [Walker(name, out, options) for name in names]
    try:
        run(walkers, out, Screen(configs, began), kills, QUICK_LIMIT_S if arguments.quick else LIMIT_S)
    finally:
        for walker in walkers:
            walker.end()
    print(f"\nThe sweep took {time.monotonic() - began:.0f} s.")
    conclude(out, configs, names, kills)


if __name__ == "__main__":
    main()

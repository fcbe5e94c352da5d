"""Measure interlock beside other libraries, in one run, and say which targets it meets.

    python benchmarks/run.py                        every question, with a table for each
    python benchmarks/run.py contended handoff      only some
    python benchmarks/run.py --same-host            those about shared memory
    python benchmarks/run.py --dir /dev/shm         judge the software, not the disk
    python benchmarks/run.py --quick --out results.json

Absolute figures drift from machine to machine and from hour to hour; what carries over is a ratio within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from typing import Any

import cache_race
import cache_readers
import cache_values
import contended
import handoff
import limit
import peers
import readers
import recovery
import report
import rounds
import same_host_contended
import same_host_handoff
import same_host_late
import same_host_readers
import same_host_recovery
import same_host_rounds
import same_host_uncontended
import uncontended
import updates
import waiting
from measure import Effort, host

QUESTIONS: dict[str, Any] = {
    "uncontended": uncontended,
    "contended": contended,
    "handoff": handoff,
    "recovery": recovery,
    "waiting": waiting,
    "readers": readers,
    "rounds": rounds,
    "updates": updates,
    "cache_values": cache_values,
    "cache_readers": cache_readers,
    "cache_race": cache_race,
    "same_host_uncontended": same_host_uncontended,
    "same_host_contended": same_host_contended,
    "same_host_readers": same_host_readers,
    "same_host_handoff": same_host_handoff,
    "same_host_rounds": same_host_rounds,
    "same_host_late": same_host_late,
    "same_host_recovery": same_host_recovery,
}


def main() -> int:
    """The exit code is 0 if everything was measured, whatever came out of it, and 1 if something failed."""
    options = _options()
    directory = tempfile.mkdtemp(prefix="interlock-bench-", dir=options.dir)
    effort = Effort(directory, options.quick)
    about = {"directory": directory, "quick": options.quick, **host()}
    print(f"{about['system']}, {about['cores']} cores, load {about['load']:.1f}; locks in {directory}")
    for name in peers.missing():
        print(f"{name} is not installed and left out")
    if limit.module() is None:
        print("there is no C compiler: the limit is left out")
    results: dict[str, Any] = {"about": about, "questions": {}}
    judged: list[report.Verdict] = []
    try:
        for name in options.questions or QUESTIONS:
            try:
                results["questions"][name] = _answer(name, effort, judged)
            except (OSError, RuntimeError) as error:
                results["questions"][name] = {"failed": str(error)}
                print(f"\n== {name} FAILED: {error}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"\n{sum(verdict.met for verdict in judged)} of {len(judged)} targets met")
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    return int(any("failed" in answer for answer in results["questions"].values()))


def _answer(name: str, effort: Effort, judged: list[report.Verdict]) -> list[dict[str, Any]]:
    question = QUESTIONS[name]
    started = time.monotonic()
    panels = question.measure(effort)
    verdicts = report.verdicts(panels, question.TARGETS)
    print(f"\n== {name}: {question.__doc__.splitlines()[0]} ({time.monotonic() - started:.0f} s)")
    for panel in panels:
        print(f"\n{report.table(panel)}")
        for verdict in verdicts[panel.title]:
            print(verdict)
        judged += verdicts[panel.title]
    return report.document(panels, verdicts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument("--same-host", action="store_true", help="the questions about objects in shared memory")
    parser.add_argument("--quick", action="store_true", help="a glance: two or three minutes, fewer repeats")
    parser.add_argument("--dir", type=os.path.abspath, help="where the locks live (the system's temporary directory)")
    parser.add_argument("--out", help="write every sample to this file as JSON")
    options = parser.parse_args()
    unknown = set(options.questions) - set(QUESTIONS)
    if unknown:
        parser.error(f"no such question: {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    if options.same_host:
        options.questions += [name for name in QUESTIONS if name.startswith("same_host")]
    return options


if __name__ == "__main__":
    sys.exit(main())

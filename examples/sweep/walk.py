"""One task of the array: walk over every configuration and train those that nobody else has, or has had.

Every task runs this same program over the same list; `interlock run` decides who trains what. A configuration that
somebody else is training is left alone, and looked at again in the next pass: its trainer may have died.

    INTERLOCK_URL=/shared/locks python walk.py --out results
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import journal
from grid import GRID, QUICK

HELD = 75  # the exit code with which `interlock run` says that somebody else is at it
PAUSE_S = 1.0  # between two passes

LOCKED = ["interlock", "run", "--skip-if-done", "--if-held", "skip"]
TRAIN = [sys.executable, str(Path(__file__).with_name("train.py"))]


def visit(config: str, out: Path, *, unprotected: bool) -> int:
    """Train one configuration unless it is done or in hand; the exit code says which."""
    train = [*TRAIN, config, "--out", str(out)]
    command = train if unprotected else [*LOCKED, config, "--", *train]
    code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    journal.note(out, "visit", config=config, walker=os.environ.get("SWEEP_WALKER"), code=code)
    if code not in (0, HELD):
        sys.exit(f"{config}: exit code {code} from {' '.join(command)}")
    return code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="rehearse with configurations that take no time")
    parser.add_argument("--unprotected", action="store_true", help="without interlock, to see what it is for")
    arguments = parser.parse_args()

    left = list(QUICK if arguments.quick else GRID)
    random.shuffle(left)
    journal.note(arguments.out, "walk", walker=os.environ.get("SWEEP_WALKER"))
    while left:
        left = [name for name in left if visit(name, arguments.out, unprotected=arguments.unprotected) == HELD]
        if left:
            time.sleep(PAUSE_S)
    journal.note(arguments.out, "walked", walker=os.environ.get("SWEEP_WALKER"))


if __name__ == "__main__":
    main()

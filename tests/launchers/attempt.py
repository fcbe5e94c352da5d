"""One attempt at training a configuration: ``python -m launchers.attempt JOURNAL CONFIGURATION [FATE]``.

It writes down when it begins and when it has finished, and a kernel lock of its own tells whether ever two are at work
on one configuration. The first attempt at a configuration meets its fate in the middle of the work; later ones finish.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time

from interlock.world import job
from launchers.journal import Journal

PATIENCE_S = 100.0


def main() -> None:
    """Begin, meet the fate or finish."""
    path, configuration, *fate = sys.argv[1:]
    journal, mine = Journal(path), job()
    facts = {"configuration": int(configuration), "job": mine, "pid": os.getpid()}
    with open(f"{path}-{configuration}", "ab") as witness:
        try:
            fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            journal.add("is not alone", **facts)
            raise
        journal.add("begins", **facts)
        if fate and not witness.tell():
            witness.write(b"attempted")
            witness.flush()
            journal.add("is struck", **facts)
            FATES[fate[0]]()
            time.sleep(PATIENCE_S)
        journal.add("finishes", **facts)


def _scheduler(*command: str) -> None:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    subprocess.run([*command, f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]], check=True)


FATES = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "orphaned": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "requeued": lambda: _scheduler("scontrol", "requeue"),
    "cancelled": lambda: _scheduler("scancel"),
}


if __name__ == "__main__":
    main()

"""Train one configuration: a program that goes on from its checkpoint, and saves one when it is told to end.

python train.py STRATEGY DATASET RATIO --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from interlock.files import fenced_replace

EPOCHS = 5
FULL_EPOCH_S = 0.6  # over the whole data set


def load(path: Path) -> dict[str, float]:
    """The checkpoint, or the state before the first epoch."""
    return json.loads(path.read_text()) if path.exists() else {"epoch": 0, "loss": 1.0}


def save(state: dict[str, float], path: Path) -> None:
    """Replace the checkpoint whole; under `interlock run` only if nobody who got the name later has done so."""
    draft = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}")
    draft.write_text(json.dumps(state))
    token = os.environ.get("INTERLOCK_TOKEN")
    if token is None:
        draft.replace(path)
    else:
        fenced_replace(draft, path, token=int(token))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("strategy")
    parser.add_argument("dataset")
    parser.add_argument("ratio", type=float, help="how much of the data set to train on")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    told_to_end = []
    signal.signal(signal.SIGTERM, lambda number, frame: told_to_end.append(number))

    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / "checkpoint.json"
    state = load(checkpoint)
    who = f"{options.strategy} {options.dataset} {options.ratio:g}"
    print(f"{who} begins after epoch {state['epoch']}", flush=True)
    while state["epoch"] < EPOCHS:
        time.sleep(FULL_EPOCH_S * options.ratio)
        state = {"epoch": state["epoch"] + 1, "loss": state["loss"] * 0.7}
        save(state, checkpoint)
        if told_to_end:
            print(f"{who} stops after epoch {state['epoch']}", flush=True)
            sys.exit(128 + told_to_end[0])
    print(f"{who} is trained", flush=True)


if __name__ == "__main__":
    main()

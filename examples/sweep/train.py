"""Train one configuration on the handwritten digits and write its result: an ordinary program that knows of no lock.

python train.py svc-rbf-c10 --out results
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import journal
from grid import GRID, QUICK, REHEARSAL

from interlock.files import atomic_write

FOLDS = 5


def scores(model: str, options: dict[str, Any]) -> Iterator[float]:
    """The accuracy on each fold, as soon as it is known."""
    if model == REHEARSAL:
        yield from rehearse(**options)
        return
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold

    module, _, name = model.rpartition(".")
    make = getattr(import_module(module), name)
    images, labels = load_digits(return_X_y=True)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(images, labels):
        pictures = images[train].reshape(-1, 8, 8)
        shifts = [np.roll(pictures, step, axis) for step, axis in ((0, 1), (1, 1), (-1, 1), (1, 2), (-1, 2))]
        fitted = make(**options).fit(np.concatenate(shifts).reshape(-1, 64), np.tile(labels[train], len(shifts)))
        yield float(fitted.score(images[test], labels[test]))


def rehearse(seconds_per_fold: float) -> Iterator[float]:
    """Take the time of a training and learn nothing."""
    for _ in range(FOLDS):
        time.sleep(seconds_per_fold)
        yield 0.1


def checksum(result: dict[str, Any]) -> str:
    """The checksum of everything in a result but the checksum itself."""
    rest = {key: value for key, value in result.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", choices=[*GRID, *QUICK])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    model, options = (GRID | QUICK)[arguments.config]
    training = {"config": arguments.config, "training": uuid.uuid4().hex, "walker": os.environ.get("SWEEP_WALKER")}
    journal.note(arguments.out, "start", **training)
    accuracies = []
    for accuracy in scores(model, options):
        accuracies.append(accuracy)
        journal.note(arguments.out, "fold", fold=len(accuracies), **training)

    result = {**training, "model": model, "options": options, "accuracies": accuracies}
    result = json.loads(json.dumps(result))
    with atomic_write(arguments.out / f"{arguments.config}.json") as file:
        json.dump({**result, "sha256": checksum(result)}, file, indent=1)
    journal.note(arguments.out, "end", **training)


if __name__ == "__main__":
    main()

"""One seed, one history: ``cd tests && python -m simulate.run --seed 1234 --object lock`` prints it step by step."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from simulate.scenes import SCENES
from simulate.world import Violation, World


def play(kind: str, seed: int, trace: Callable[[str], None] | None = None) -> None:
    """Run one history; a `Violation` says how to see it again."""
    try:
        SCENES[kind](World(seed, trace)).play()
    except Exception as problem:
        again = f"cd tests && python -m simulate.run --seed {seed} --object {kind}"
        raise Violation(f"{type(problem).__name__}: {problem}\nSee it again: {again}") from problem


def main() -> None:
    """Print a history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--object", choices=sorted(SCENES), required=True)
    options = parser.parse_args()
    play(options.object, options.seed, print)


if __name__ == "__main__":
    main()

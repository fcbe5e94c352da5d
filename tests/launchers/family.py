"""Ranks started by `multiprocessing`: ``python -m launchers.family METHOD SIZE MODULE ARGUMENT...``.

Each of them runs ``main(ARGUMENT..., rank=..., size=...)`` of the module.
"""

from __future__ import annotations

import multiprocessing
import sys
from importlib import import_module


def main(method: str, size: int, module: str, *arguments: str) -> list[int | None]:
    """Run the ranks to their ends; returns how they ended."""
    context = multiprocessing.get_context(method)
    program = import_module(module).main
    ranks = [
        context.Process(target=program, args=arguments, kwargs={"rank": rank, "size": size}) for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]


if __name__ == "__main__":
    method, size, *rest = sys.argv[1:]
    sys.exit(any(main(method, int(size), *rest)))

"""Product: a file that is made from another one, once for all who ask, and that is whole or not there.

Whoever finds a flaw in it takes part in an `interlock.Once`: the first comer makes the file, the others wait for it,
get its error, or take over if it dies. The maker also holds the lock under which the file is changed, works aside, and
renames the result into place under the lock's token, so that even a maker that was thought dead, and superseded,
cannot undo what its successor did. A product is never changed in place.

Layer: above `files`.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from interlock.files import fenced_replace
from interlock.files.atomic import resolve
from interlock.files.beside import beside
from interlock.objects import Lock, Once

logger = logging.getLogger("interlock")

MISSING = "missing"


class Product(Protocol):
    """What is to be made, and how."""

    path: str

    def flaw(self, path: str) -> str | None:
        """What is wrong with the file at `path`, in words; None if nothing is. Raises if it must not be replaced."""

    def make(self, aside: str) -> None:
        """Make the file, as a new one at `aside`."""


def ensure(product: Product, timeout: float | None) -> None:
    """Have a product made unless it has no flaw.

    Raises: the error of the one who made it, in everybody who waited. AcquireTimeout: somebody else still makes it.
    Crash:  if the maker dies the next in the row makes it; it also clears away what the dead one left.
    """
    path = resolve(product.path)
    if product.flaw(path) is None:
        return

    def build() -> None:
        with _change(path, timeout) as grant:
            flaw = product.flaw(path)  # one who died, or who was quicker, may have put it there meanwhile
            if flaw is not None:
                logger.log(logging.INFO if flaw == MISSING else logging.WARNING, "building %s: it is %s", path, flaw)
                _put(product, product.make, path, grant.token, timeout)

    Once(beside(path), f"build {os.path.basename(path)}", timeout=timeout, keep=False).run(build)


def replace(product: Product, make: Callable[[str], None], timeout: float | None) -> None:
    """Replace a product by what `make` makes of it, one at a time among all. A flaw in that is a `ValueError`."""
    path = resolve(product.path)
    with _change(path, timeout) as grant:
        _put(product, make, path, grant.token, timeout)


def _put(product: Product, make: Callable[[str], None], path: str, token: int, timeout: float | None) -> None:
    """Make the file aside, verify it, put it in place. Under its lock, so what lies aside is left by the dead."""
    directory, name = os.path.split(path)
    for left in Path(directory).glob(f".{glob.escape(name)}.*.building*"):
        left.unlink(missing_ok=True)
    aside = os.path.join(directory, f".{name}.{token}.building")
    try:
        make(aside)
        flaw = product.flaw(aside)
        if flaw is not None:
            raise ValueError(f"{path} is as it was: what was to replace it is {flaw}")
        fenced_replace(aside, path, token=token, timeout=timeout)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(aside)
        raise


def _change(path: str, timeout: float | None) -> Lock:
    """The lock of whoever replaces the file."""
    return beside(path).lock(f"change {os.path.basename(path)}", timeout=timeout)

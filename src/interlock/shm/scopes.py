"""Scopes: which ones of shared memory this user has on this host, who is there, and the removal of what is left over.

A scope is left over when each of its sessions is proved dead. It is removed under its own lock, after another look.
Layer: above the store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote

from interlock.abc import Liveness
from interlock.errors import InterlockError
from interlock.shm.store import ShmStore, home, open_store
from interlock.stores._space import Space


class Scope(NamedTuple):
    """One scope; `there` are its sessions that are not proved dead, `damage` why it cannot be looked at."""

    url: str
    path: str
    there: tuple[Liveness, ...]
    damage: str = ""

    @property
    def left_over(self) -> bool:
        """Whether nobody is there any more."""
        return not self.there and not self.damage


def scopes(prefix: str = "") -> Iterator[Scope]:
    """The scopes of this user whose names start with `prefix`. Takes nothing."""
    for name in sorted(os.listdir(home())):
        if name.startswith(prefix) and not name.startswith("."):
            yield _look(f"shm://{quote(name, safe='')}", os.path.join(home(), name))


def _look(url: str, path: str) -> Scope:
    try:
        return Scope(url, path, _there(open_store(url)))
    except InterlockError as error:
        return Scope(url, path, (), str(error))


def _there(store: ShmStore) -> tuple[Liveness, ...]:
    found = (store.alive(session) for session in store.sessions())
    return tuple(life for life in found if life.state != "dead")


def remove(scope: Scope) -> bool:
    """Remove a scope that is left over; False if somebody is there now."""
    store = open_store(scope.url)
    with suppress(InterlockError):
        space = Space(scope.path, None, create=False, local=True)
        try:
            with space.locked():
                if _there(store) or space.removed():
                    return False
                aside = os.path.join(os.path.dirname(scope.path), f".left-{os.urandom(6).hex()}")
                os.rename(scope.path, aside)
                shutil.rmtree(aside)
                return True
        finally:
            space.close()
    return False

"""Stores by URL scheme. A store's own file is imported when its scheme is first used."""

from __future__ import annotations

import os
from importlib import import_module

from interlock.abc import Store
from interlock.errors import Unavailable

SCHEMES = {"file": "interlock.stores.file", "shm": "interlock.shm.store", "memory": "interlock.stores.memory"}


def default_url() -> str:
    """$INTERLOCK_URL, else a directory of the user's own state."""
    url = os.environ.get("INTERLOCK_URL")
    if url:
        return url
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return _file_url(os.path.join(state, "interlock"))


def open_store(url: str | os.PathLike[str] | None = None) -> Store:
    """The store of a URL, or of a plain directory path; None takes the default.

    Raises: Unavailable: unknown scheme, or the URL does not fit its scheme (definite).
    """
    text = default_url() if url is None else os.fspath(url)
    scheme, separator, _ = text.partition("://")
    if not separator and text and ":" not in text.split(os.sep, 1)[0]:
        return open_store(_file_url(text))
    module = SCHEMES.get(scheme)
    if module is None:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise Unavailable(f"unknown scheme in {text!r}: interlock knows {known}", scope=text)
    store: Store = import_module(module).open_store(text)
    return store


def _file_url(path: str) -> str:
    from urllib.parse import quote  # not at import: it is needed where files are used only

    return f"file://{quote(os.fsencode(os.path.abspath(path)))}"

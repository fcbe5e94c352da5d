"""The verdict: which way of locking the file store may use in a directory, from what was measured there.

1. A kernel lock may be used if nothing was found against it on any host and between any two.
2. Of those that may, the one is taken that the file store takes by itself: ofd, flock, lockf.
3. Where none may, records that are claimed by hard links need none, if links were found to be exclusive.
4. What one host has found is the whole truth only where no other host can see the directory. There is no verdict
   otherwise, except against kernel locks: a lock that fails on one host is not better between two.

Layer: under `doctor`; it imports nothing that measures.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any
from urllib.parse import quote

from interlock.holder import Holder
from interlock.stores._mount import CLAIMS

PREFERRED = ("ofd", "flock", "lockf")
CREATION, LINKS = "exclusive_create", "hard_links"
SEEN = ("new_name_s", "renamed_s", "rewritten_s", "appended_s")

Findings = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe found in a directory, and what follows.

    path, file_system, options: the directory, and the type and options of its mount.
    hosts:      the names of those that took part; `measured` has what each found alone under ``hosts``, and what two of
                them found under ``between``, by their names with " - " between them.
    decided:    False if another host has to be asked; then `primitive` is None.
    primitive:  ``ofd``, ``flock``, ``lockf`` or ``claims``; None if nothing that the file store can use works here.
    refused:    the others that were found wanting, each with the reason in words.
    pinned:     whether the verdict was left in the directory, where the file store finds it.
    at, by:     when, in seconds, and which process led.
    """

    path: str
    file_system: str
    options: tuple[str, ...]
    hosts: tuple[str, ...]
    decided: bool
    primitive: str | None
    refused: Mapping[str, str]
    measured: Mapping[str, Findings]
    pinned: bool = False
    at: float = field(default_factory=time.time)
    by: str = field(default_factory=lambda: Holder.here().describe())

    def facts(self) -> dict[str, Any]:
        """Everything, for ``--json``."""
        return {**asdict(self), "url": self.url, "verdict": self.sentence}

    def pin(self) -> dict[str, Any]:
        """What the file store is to know."""
        kept = ("primitive", "refused", "hosts", "measured", "at", "by", "file_system")
        return {key: value for key, value in asdict(self).items() if key in kept}

    @property
    def url(self) -> str | None:
        """The scope in this directory, or None if the file store may not use it."""
        url = f"file://{quote(self.path)}"
        if self.primitive is None:
            return None
        return url if self.pinned else f"{url}?primitive={self.primitive}"

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        across = len(self.hosts) > 1
        if not self.decided:
            return (
                f"not decided: other hosts may use this directory, and how locks work between hosts takes two of them "
                f"to measure. Run on two at the same time: interlock doctor {shlex.quote(self.path)} --probe NAME"
            )
        if self.primitive is None:
            return "nothing that locks can rest on works in this directory: use another one, or another store"
        if self.primitive == CLAIMS:
            return f"use claims: kernel locks cannot be relied on here, but hard links {_reach(across)}"
        return f"use {self.primitive} locks: they {_reach(across)}, and what is written under them is read under them"


def _reach(across: bool) -> str:
    return "exclude processes of one host and of several" if across else "exclude the processes of this host"


def weigh(hosts: Findings, between: Findings, shared: bool) -> tuple[bool, str | None, dict[str, str]]:
    """Whether it is decided, what to use, and what is refused for which reason.

    Args:    hosts: what each host found alone, and `between` what every two did.
             shared: whether other hosts may use the directory.
    """
    found = [*chain(hosts.values(), between.values())]
    reasons = {way: next((one[way] for one in found if one.get(way)), None) for way in (*PREFERRED, LINKS)}
    reasons[LINKS] = reasons[LINKS] or _unseen(between)
    refused = {CLAIMS if way == LINKS else way: why for way, why in reasons.items() if why}
    sound = [way for way in (*PREFERRED, CLAIMS) if way not in refused]
    decided = len(hosts) > 1 or not shared or not set(PREFERRED) & set(sound)
    return decided, sound[0] if decided and sound else None, refused


def _unseen(between: Findings) -> str | None:
    """Claims live by what others see: a heartbeat that is not seen to go on looks like the silence of the dead."""
    for pair, found in between.items():
        if missed := [key.removesuffix("_s").replace("_", " ") for key in SEEN[:3] if found.get(key, 0) is None]:
            return f"between {pair}, this was not seen in time: {', '.join(missed)}"
    return None

"""Mounts where kernel locks may mean nothing to other hosts: refused, decided by a verdict, or by a person."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import interlock
from hosts import Host, cluster, missing
from interlock.stores import _mount
from launchers.conftest import demand
from patience import until
from two_hosts import party
from two_hosts.party import Party

TAKE = """
import sys, interlock
try:
    with interlock.connect(sys.argv[1]).lock("x", timeout=30) as grant:
        print(grant.token)
except interlock.InterlockError as error:
    print(type(error).__name__, error)
"""


def urls(host: Host) -> tuple[str, str, str]:
    """The plain URL of a space on the host's mount, with claims, and for one host alone."""
    plain = f"file://{host.shared}/space"
    return plain, f"{plain}?primitive=claims", f"{plain}?local=ok"


def test_an_undecided_mount_is_refused(pair: tuple[Host, ...]) -> None:
    """Nothing is made, and the error says where, why, and each of the ways out."""
    plain, claims, local = urls(pair[0])
    said = pair[0].python(TAKE, plain)
    assert said.startswith("UnsafeMount")
    for word in ("fuse", str(pair[0].shared), "interlock doctor", claims, local):
        assert word in said
    assert os.listdir(pair[0].folder) == []


def test_one_host_alone_may_have_it_by_a_persons_word(two: tuple[Host, ...]) -> None:
    """It is remembered for the host on which that was said, and for no other."""
    plain, _, local = urls(two[0])
    assert two[0].python(TAKE, local) == "1\n"
    assert two[0].python(TAKE, plain) == "2\n"
    assert two[1].python(TAKE, plain).startswith("UnsafeMount")


def test_a_verdict_makes_the_plain_url_work_on_every_host(pair: tuple[Host, ...]) -> None:
    """What was measured decides for all below, and is pinned when a space is made."""
    plain, _, _ = urls(pair[0])
    _mount.publish(str(pair[0].folder), {"primitive": "claims", "refused": {"ofd": "it reached one host only"}})
    assert pair[0].python(TAKE, plain) == "1\n"
    os.unlink(pair[0].folder / _mount.VERDICT)
    assert pair[1].python(TAKE, plain) == "2\n"
    said = pair[1].python(TAKE, f"{plain}?primitive=ofd")
    assert "pinned to claims" in said


def test_a_space_that_is_removed_is_made_anew(pair: tuple[Host, ...], join: Callable[..., Party]) -> None:
    """Both hosts notice, whatever their mounts remember of it, and go on in a new one that they share."""
    here, there = map(join, pair)
    for who in (here, there):
        who.call(party.take, "x", 5)
        who.call(party.give, "x")
    shutil.rmtree(pair[0].folder / "space")

    def taken(who: Party) -> bool:
        try:
            who.call(party.take, "x", 0)
            return True
        except interlock.InterlockError:
            return False

    until(lambda: taken(here))
    for _ in range(3):
        assert not taken(there)
    here.call(party.give, "x")
    until(lambda: taken(there))


def test_a_read_only_mount_can_be_looked_at(tmp_path: Path) -> None:
    """Records and participants are read through it; whoever wants more is told what is wrong."""
    demand(missing())
    with cluster(tmp_path, "alder", kind=("-r",)) as (host,):
        with interlock.connect(f"file://{host.folder}/space?primitive=claims").lock("x", timeout=30):
            said = host.interlock("--url", f"file://{host.shared}/space", "ls")
            assert "x" in said.stdout, said.stderr
            assert "read-only" in host.python(TAKE, f"file://{host.shared}/space")
        assert "read-only" in host.python(TAKE, f"file://{host.shared}/new?primitive=claims")


def test_a_space_with_kernel_locks_is_refused_through_such_a_mount(two: tuple[Host, ...]) -> None:
    """One that was made where they work, and is now seen where they may not; the server goes on using it."""
    plain, claims, _ = urls(two[0])
    with interlock.connect(f"file://{two[0].folder}/space").lock("x", timeout=30):
        assert two[0].python(TAKE, plain).startswith("UnsafeMount")
        assert "pinned to ofd" in two[1].python(TAKE, claims)

"""Every object between two hosts that share nothing but a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import interlock
from hosts import Host
from patience import until
from two_hosts import party
from two_hosts.party import Party

Join = Callable[..., Party]
TOTAL = 90


def count(host: Host, parties: list[Party], until: int) -> Path:
    """Begin to count up together, from 0, the number in a file; where it is."""
    number = host.folder / "number"
    number.write_text(f"{0:08}")
    for who in parties:
        who.ask(party.count_up, str(host.shared / "number"), "lock", until)
    return number


def in_order(shares: list[list[list[int]]]) -> list[int]:
    """The numbers that were read, in order; tokens must grow with them."""
    done = sorted((number, token) for share in shares for number, token in share)
    tokens = [token for _, token in done]
    assert tokens == sorted(set(tokens))
    return [number for number, _ in done]


def test_no_update_is_lost(pair: tuple[Host, ...], join: Join) -> None:
    """Six processes on two hosts count up under one lock: each number once, in the order of tokens, nobody starves."""
    parties = [join(host) for host in pair * 3]
    number = count(pair[0], parties, TOTAL)
    shares = [who.answer() for who in parties]
    assert in_order(shares) == list(range(TOTAL))
    assert int(number.read_text()) == TOTAL
    assert min(map(len, shares)) >= TOTAL // len(parties) // 3


def test_no_update_is_lost_when_processes_are_killed(pair: tuple[Host, ...], join: Join) -> None:
    """The same while one process on each host is killed wherever it is: the others go on, and nothing is doubled."""
    parties = [join(host, ttl_s=1.0) for host in pair * 3]
    number = count(pair[0], parties, TOTAL)
    for who, enough in zip(parties, (TOTAL // 4, TOTAL // 2), strict=False):
        until(lambda enough=enough: int(number.read_text()) >= enough)
        who.kill()
    counted = in_order([who.answer() for who in parties[2:]])
    assert len(counted) == len(set(counted))
    assert int(number.read_text()) == TOTAL


def test_kernel_locks_of_such_a_mount_would_lose_updates(two: tuple[Host, ...], tmp_path: Path) -> None:
    """Negative control: with locks that stay on each host, as `local=ok` allows, the same count goes wrong."""
    url = f"file://{tmp_path}/shared/unsafe?local=ok"
    parties = [Party(host, url) for host in two * 3]
    count(two[0], parties, 1000)
    with pytest.raises((AssertionError, interlock.InterlockError, RuntimeError)):
        assert in_order([who.answer() for who in parties]) == list(range(1000))


def test_readers_share_and_writers_do_not(pair: tuple[Host, ...], join: Join) -> None:
    """A reader on each host, no writer beside them; a writer on one host, no reader on the other."""
    here, there = map(join, pair)
    assert here.call(party.share, "table")
    assert there.call(party.share, "table")
    here.call(party.unshare, "table")
    assert not here.call(party.write, "table")
    there.call(party.unshare, "table")
    assert here.call(party.write, "table")
    assert not there.call(party.share, "table")


def test_permits_are_counted_across_hosts(pair: tuple[Host, ...], join: Join) -> None:
    """Two permits, one taken on each host: there is no third until one is given back."""
    here, there = map(join, pair)
    assert here.call(party.permit, "gpu", 2)
    assert there.call(party.permit, "gpu", 2)
    third = join(pair[0])
    assert not third.call(party.permit, "gpu", 2)
    there.call(party.return_permit, "gpu", 2)
    assert third.call(party.permit, "gpu", 2)


def test_a_barrier_gathers_both_hosts(pair: tuple[Host, ...], join: Join) -> None:
    """Nobody passes before the last has come; then all pass, each in a place of its own."""
    parties = [join(host) for host in pair * 2]
    for who in parties[:3]:
        who.ask(party.meet, "start", 4)
    assert not parties[0].answers(0.5)
    parties[3].ask(party.meet, "start", 4)
    met = [who.answer() for who in parties]
    assert sorted(place for _, place in met) == [0, 1, 2, 3]
    assert len({generation for generation, _ in met}) == 1


@pytest.mark.parametrize("deed", [party.compute, party.build])
def test_one_of_all_computes(
    pair: tuple[Host, ...], join: Join, tmp_path: Path, deed: Callable[[interlock.Session, str, str], str]
) -> None:
    """By `once` and by a fence of four ranks: one process computes, on whichever host, and all get its value."""
    parties = [join(host, rank=rank, size=4) for rank, host in enumerate(pair * 2)]
    for who in parties:
        who.ask(deed, "value", str(tmp_path / "shared" / "signed"))
    assert len({who.answer() for who in parties}) == 1
    assert (tmp_path / "folder" / "signed").read_text() == "x"


def test_an_event_is_heard_on_the_other_host(pair: tuple[Host, ...], join: Join) -> None:
    """Who waits on one host goes on when it is set on the other, where no wake-up comes from."""
    here, there = map(join, pair)
    here.ask(party.wait_for, "go")
    assert not here.answers(0.3)
    there.call(party.tell, "go")
    assert here.answer() is True

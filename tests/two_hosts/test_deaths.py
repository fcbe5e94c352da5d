"""Processes and hosts that end, stop and wake up late: who gets the lock, and who is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import interlock
from hosts import Host
from interlock.stores import _mount
from two_hosts import party
from two_hosts.party import PATIENCE_S, Party

Join = Callable[..., Party]
TTL_S = 1.0


def test_the_lock_of_a_killed_process_goes_to_the_other_host(pair: tuple[Host, ...], join: Join) -> None:
    """On either side: for as long as the holder lives nobody takes its lock, and once it is killed the other does."""
    victims = [join(host, ttl_s=TTL_S) for host in pair]
    heirs = [join(host) for host in pair[::-1]]
    tokens = [victim.call(party.take, name)[0] for victim, name in zip(victims, ("left", "right"), strict=True)]
    for heir, name in zip(heirs, ("left", "right"), strict=True):
        heir.ask(party.take, name, PATIENCE_S)
    assert not heirs[0].answers(1.5 * TTL_S)
    assert not heirs[1].answers(0)
    for victim in victims:
        victim.kill()
    for heir, token in zip(heirs, tokens, strict=True):
        assert heir.answer() == [token + 1, True]


def test_the_lock_of_a_crashed_host_goes_to_the_other(two: tuple[Host, ...], join: Join) -> None:
    """A host that ends with all that runs there: who held it is superseded, and who waited for it."""
    gone, stays = two
    victims, heir = [join(gone, ttl_s=TTL_S) for _ in range(2)], join(stays)
    token, _ = victims[0].call(party.take, "lock")
    victims[1].ask(party.take, "lock")
    assert not victims[1].answers(0.3)
    gone.crash()
    assert heir.call(party.take, "lock", PATIENCE_S) == [token + 1, True]


def test_a_paused_host_is_superseded_and_refused_when_it_wakes_up(pair: tuple[Host, ...], join: Join) -> None:
    """What it held is somebody else's; its write comes with an old token, its session is lost, and it is told so."""
    sleeper, awake = pair
    _mount.publish(str(sleeper.folder), {"primitive": "claims", "refused": {}})
    target = str(sleeper.shared / "result")
    old, new = join(sleeper, ttl_s=TTL_S), join(awake)
    token = old.call(party.put, target, "first", "lock")
    sleeper.pause()
    successor = new.call(party.put, target, "successor's", "lock")
    assert successor > token
    sleeper.resume()
    with pytest.raises(interlock.Superseded):
        old.call(party.replace, target, "late", token)
    assert (sleeper.folder / "result").read_text() == "successor's"
    assert old.call(party.lost)
    with pytest.raises(interlock.SessionLost):
        old.call(party.take, "another lock")
    with pytest.raises(interlock.SessionLost):
        old.call(party.give, "lock")
    assert new.call(party.lost) is False
    new.call(party.give, "lock")


def test_who_is_stopped_while_it_asks_is_not_let_in_late(two: tuple[Host, ...], join: Join) -> None:
    """A process that slept for longer than its lease on its way into a free lock is told that its session is lost."""
    sleeper, other = join(two[0], ttl_s=TTL_S), join(two[1])
    sleeper.ask(party.take_after_a_stop, "lock")
    assert not sleeper.answers(1.5 * TTL_S)
    sleeper.resume()
    with pytest.raises(interlock.SessionLost):
        sleeper.answer()
    assert other.call(party.take, "lock", PATIENCE_S)[0] > 0


def test_whoever_sleeps_does_not_take_it_for_the_silence_of_others(two: tuple[Host, ...], join: Join) -> None:
    """A host that watched a holder, slept for several of its leases and wakes up goes on waiting for it."""
    busy, sleeper = two
    holder, observer = join(busy, ttl_s=TTL_S), join(sleeper)
    token, _ = holder.call(party.take, "lock")
    observer.ask(party.take, "lock", PATIENCE_S)
    assert not observer.answers(0.5)
    sleeper.pause()
    assert not observer.answers(2 * TTL_S)
    sleeper.resume()
    assert not observer.answers(TTL_S)
    assert not holder.call(party.lost)
    holder.call(party.give, "lock")
    assert observer.answer() == [token + 1, False]


def test_a_stopped_process_lives_for_its_own_host_only(two: tuple[Host, ...], join: Join) -> None:
    """Its neighbours see that it is there, and wait; the other host hears nothing of it, and supersedes it."""
    holder, neighbour, other = join(two[0], ttl_s=TTL_S), join(two[0]), join(two[1])
    token, _ = holder.call(party.take, "lock")
    holder.stop()
    with pytest.raises(interlock.AcquireTimeout, match="alder"):
        neighbour.call(party.take, "lock", 2 * TTL_S)
    assert other.call(party.take, "lock", PATIENCE_S) == [token + 1, True]


def test_a_member_of_a_barrier_that_dies_on_the_other_host_is_missed(two: tuple[Host, ...], join: Join) -> None:
    """Who waits for it is told within its lease, and does not wait for ever."""
    victim, survivor = join(two[0], ttl_s=TTL_S), join(two[1])
    for who in (victim, survivor):
        who.ask(party.meet, "start", 2)
    assert [who.answer()[0] for who in (victim, survivor)]
    survivor.ask(party.meet, "start", 2)
    victim.kill()
    with pytest.raises(interlock.BrokenBarrier):
        survivor.answer()

"""Deaths: whoever is killed or stopped, the others learn it in time, by name, and only on proof."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import interlock
from contract import peer
from contract.conftest import Thread
from contract.peer import METHODS, Peer
from patience import until

Peers = Callable[..., Peer]
Background = Callable[..., Thread]
SOON_S = 5.0  # the documentation promises one second; a machine that has other things to do gets some more


@pytest.fixture
def session(file_url: str) -> Iterator[interlock.Session]:
    """The test's own session in the scope of the peers."""
    with interlock.connect(file_url) as opened:
        yield opened


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_holder_is_replaced(
    session: interlock.Session, peers: Peers, background: Background, method: str
) -> None:
    """The next waiter gets the lock of a killed holder in time and is told that it must look for damage."""
    holder = peers(method)
    token, _ = holder.call(peer.take, "a")
    waiting = background(lambda: (session.lock("a").acquire(20), time.monotonic()))
    until(lambda: session.lock("a").waiters())
    killed = time.monotonic()
    holder.kill()
    grant, granted = waiting.result()
    assert grant.recovered
    assert grant.token > token
    assert granted - killed < SOON_S
    grant.release()


def test_a_recovered_grant_is_told_once(session: interlock.Session, peers: Peers) -> None:
    """The one after the recovered holder is not told again."""
    holder = peers()
    holder.call(peer.take, "a")
    holder.kill()
    with session.lock("a") as grant:
        assert grant.recovered
    with session.lock("a") as grant:
        assert not grant.recovered


def test_try_acquire_succeeds_after_a_death(session: interlock.Session, peers: Peers) -> None:
    """A lock whose holder is dead is free for one who tries once."""
    holder = peers()
    holder.call(peer.take, "a")
    assert session.lock("a").try_acquire() is None
    holder.kill()
    assert session.lock("a").try_acquire().recovered


def test_a_zombie_is_dead(session: interlock.Session, peers: Peers) -> None:
    """A killed holder whose parent has not waited for it holds nothing either."""
    holder = peers()
    holder.call(peer.take, "a")
    os.kill(holder.pid, signal.SIGKILL)
    grant = session.lock("a").acquire(20)
    assert os.path.exists(f"/proc/{holder.pid}")
    assert grant.recovered


def test_a_stopped_holder_keeps_the_lock(session: interlock.Session, peers: Peers) -> None:
    """A holder that is stopped is slow and not dead: nobody gets the lock, and it releases it later."""
    holder = peers()
    holder.call(peer.take, "a")
    holder.signal(signal.SIGSTOP)
    try:
        with pytest.raises(interlock.AcquireTimeout) as caught:
            session.lock("a").acquire(0.3)
    finally:
        holder.signal(signal.SIGCONT)
    assert [who.pid for who in caught.value.holders] == [holder.pid]
    holder.call(peer.give, "a")
    assert not session.lock("a").acquire(20).recovered


def test_a_killed_waiter_is_passed_over(session: interlock.Session, peers: Peers, background: Background) -> None:
    """A waiter killed in the middle of the row is taken out by the one behind it; it never held, so nothing is told."""
    waiter = peers()
    grant = session.lock("a").acquire()
    waiter.ask(peer.take, "a")
    until(lambda: session.lock("a").waiters())
    with interlock.connect(session.url) as other:
        behind = background(other.lock("a").acquire, 20)
        until(lambda: len(session.lock("a").waiters()) == 2)
        waiter.kill()
        until(lambda: len(session.lock("a").waiters()) == 1)
        grant.release()
        assert not behind.result().recovered


def read(session: interlock.Session, name: str) -> None:
    """Take a read hold and keep it."""
    session.rwlock(name).read().acquire()


def test_a_killed_reader_lets_the_writer_in(session: interlock.Session, peers: Peers) -> None:
    """A dead reader holds nobody up, and damaged nothing."""
    reader = peers()
    reader.call(read, "a")
    reader.kill()
    assert not session.rwlock("a").write().acquire(20).recovered


def permit(session: interlock.Session, name: str) -> None:
    """Take one of two permits and keep it."""
    session.semaphore(name, 2).acquire()


def test_a_killed_holders_permit_comes_back(session: interlock.Session, peers: Peers, background: Background) -> None:
    """A waiter gets the permit of a killed holder; the other holder keeps its own."""
    dying, living = peers(), peers()
    dying.call(permit, "a")
    living.call(permit, "a")
    waiting = background(session.semaphore("a", 2).acquire, 20)
    until(lambda: session.semaphore("a", 2).waiters())
    dying.kill()
    assert waiting.result().recovered
    assert session.semaphore("a", 2).try_acquire() is None


def arrive(session: interlock.Session, name: str) -> Any:
    """Wait at a barrier of three."""
    return session.barrier(name, 3).wait(20)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_party_killed_while_waiting_breaks_the_barrier(session: interlock.Session, peers: Peers, killed: int) -> None:
    """The parties that still wait are told in time, and by name, whichever of them dies."""
    parties = [peers(), peers()]
    for number, party in enumerate(parties, 1):
        party.ask(arrive, "a")
        until(lambda number=number: session.barrier("a", 3).waiting == number)
    began = time.monotonic()
    parties[killed].kill()
    with pytest.raises(interlock.BrokenBarrier, match="died while waiting") as caught:
        parties[1 - killed].answer()
    assert time.monotonic() - began < SOON_S
    assert [who.pid for who in caught.value.missing] == [parties[killed].pid]


def meet(session: interlock.Session, name: str) -> Any:
    """Wait at a barrier of two."""
    return session.barrier(name, 2).wait(20)


def test_a_dead_party_never_counts_as_arrived(session: interlock.Session, peers: Peers) -> None:
    """The last party to arrive does not pass with one that died waiting, but is told of its death by name."""
    dead = peers()
    dead.ask(meet, "a")
    until(lambda: session.barrier("a", 2).waiting)
    dead.kill()
    with pytest.raises(interlock.BrokenBarrier, match="died while waiting") as caught:
        session.barrier("a", 2).wait(20)
    assert [who.pid for who in caught.value.missing] == [dead.pid]


def test_a_party_killed_before_it_arrives_is_missed(session: interlock.Session, peers: Peers) -> None:
    """A member of the last generation that dies before it comes again breaks the next one, by name."""
    parties = [peers(), peers()]
    for party in parties:
        party.ask(arrive, "a")
    session.barrier("a", 3).wait(20)
    for party in parties:
        party.answer()
    parties[0].kill()
    with pytest.raises(interlock.BrokenBarrier, match="before it arrived") as caught:
        session.barrier("a", 3).wait(20)
    assert [who.pid for who in caught.value.missing] == [parties[0].pid]


def works(session: interlock.Session, kind: type[interlock.Once] | type[interlock.Fence]) -> bool:
    """Whether somebody computes or writes under the name."""
    stored = session.store.read("a")
    return stored is not None and "holds" in kind.machine.sessions(kind.machine.decode(stored.text)).values()


def compute_for_ever(session: interlock.Session, name: str) -> Any:
    """Begin a computation and never end it."""
    return session.once(name, signal.pause)


def test_a_killed_worker_is_replaced(session: interlock.Session, peers: Peers, background: Background) -> None:
    """When the process that computes is killed, a waiting one computes."""
    worker = peers()
    worker.ask(compute_for_ever, "a")
    until(lambda: works(session, interlock.Once))
    waiting = background(lambda: session.once("a", lambda: "taken over", timeout=20))
    worker.kill()
    assert waiting.result() == "taken over"


def write_for_ever(session: interlock.Session, writer: int | None) -> None:
    """Become the writer of a fence and never end."""
    with session.fence("a", writer=writer) as fence:
        fence.guard()
        signal.pause()


@pytest.mark.parametrize("writer", [None, 0])
def test_a_killed_writer(file_url: str, peers: Peers, writer: int | None) -> None:
    """A killed writer hands over to a waiting rank; one that was asked for by rank is reported as `OwnerDied`."""
    dying = peers(rank=0, size=2)
    dying.ask(write_for_ever, writer)
    with interlock.connect(file_url, rank=1, size=2) as session:
        until(lambda: works(session, interlock.Fence))
        dying.kill()
        if writer is None:
            assert session.single("a", lambda: "handed over", timeout=20) == "handed over"
        else:
            with pytest.raises(interlock.OwnerDied, match="rank 0"):
                session.single("a", pytest.fail, writer=0, timeout=20)


def take_and_fork(session: interlock.Session, name: str) -> int:
    """Take a lock, then fork a child that outlives the taker; returns the child's pid."""
    session.lock(name).acquire()
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    return child


def test_a_holders_child_does_not_keep_its_lock(session: interlock.Session, peers: Peers) -> None:
    """A killed holder's lock is free although a child that it forked still runs."""
    holder = peers()
    child = holder.call(take_and_fork, "a")
    try:
        holder.kill()
        assert session.lock("a").acquire(20).recovered
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def interrupted_wait(session: interlock.Session, name: str) -> str:
    """Wait for a lock until a signal comes; returns what came out."""
    try:
        session.lock(name).acquire()
    except KeyboardInterrupt:
        return "interrupted"
    return "acquired"


def test_an_interrupted_process_leaves_the_row(session: interlock.Session, peers: Peers) -> None:
    """SIGINT to a waiting process ends its wait, and nothing of it stays in the row."""
    waiter = peers()
    with session.lock("a"):
        waiter.ask(interrupted_wait, "a")
        until(lambda: session.lock("a").waiters())
        waiter.signal(signal.SIGINT)
        assert waiter.answer() == "interrupted"
        assert session.lock("a").waiters() == []

"""`interlock.compat.streaming.SharedBarrier`: all enter before any leaves, and whoever will not come is named."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import interlock
from crash.processes import Board, Log, collected, fork, kill, wait
from interlock.compat.streaming import SharedBarrier
from interlock.compat.streaming import barrier as module
from interlock.shm import store
from patience import until

Make = Callable[[], SharedBarrier]

# What a worker says last; exit codes of its process.
PASSED, BROKEN, DISAGREED = 0, 40, 41


@pytest.fixture(params=["shm", "file"])
def scope(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Barriers in a scope of this test's own: of shared memory, or beside the lock's path because there is none."""
    name = f"test-{uuid.uuid4().hex}"
    monkeypatch.setattr(module, "SCOPE", f"shm://{name}")
    if request.param == "file":
        monkeypatch.setattr(store, "_native", None)
    with collected():
        yield request.param
    shutil.rmtree(f"/dev/shm/interlock-{os.geteuid()}/scopes/{name}", ignore_errors=True)


@pytest.fixture
def make(scope: str, tmp_path: Path) -> Make:
    """Makes objects of one and the same barrier."""
    return functools.partial(SharedBarrier, str(tmp_path / "locks" / "barrier"), "barrier")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(str(tmp_path / "log"))
    yield log
    log.close()


def worker(make: Make, parties: int, rounds: int = 1, board: Board | None = None, slot: int = 0) -> int:
    """A process that calls the barrier so often, and counts on a board how often it has passed."""

    def work() -> None:
        os._exit(called(make(), parties, rounds, board, slot))

    return fork(work)


def called(barrier: SharedBarrier, parties: int, rounds: int, board: Board | None = None, slot: int = 0) -> int:
    """Call a barrier again and again; how that ended, as an exit code."""
    for passed in range(rounds):
        try:
            barrier(parties)
        except interlock.BrokenBarrier:
            return BROKEN
        except interlock.Mismatch:
            return DISAGREED
        if board is not None:
            board[slot] = passed + 1
    return PASSED


def waits(barrier: SharedBarrier, number: int = 1) -> None:
    """Wait until so many have entered."""
    until(lambda: barrier.num_enter == number)


def is_stopped(pid: int) -> None:
    """Wait until a process is stopped."""
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def out_of_turn(entries: list[list[object]], parties: int, rounds: int) -> list[object]:
    """The entries of a log that show a party leaving a round which not all had entered."""
    entered = [0] * rounds
    wrong = []
    for entry in entries:
        what, turn = entry[0], int(str(entry[1]))
        entered[turn] += what == "enters"
        if what == "leaves" and entered[turn] < parties:
            wrong.append(entry)
    return wrong


# -- what it shows


def test_a_new_barrier_shows_what_that_of_streaming_shows(make: Make) -> None:
    """Before anybody has come, nobody has entered, nobody is to leave, and the flag says go."""
    barrier = make()
    assert (barrier.num_enter, barrier.num_exit, barrier.flag) == (0, -1, True)
    assert barrier.shm_name == "barrier"
    assert os.path.basename(barrier.filelock_path) == "barrier"


@pytest.mark.parametrize("num_enter", [3, 0])
@pytest.mark.parametrize("num_exit", [4, -1])
@pytest.mark.parametrize("flag", [True, False])
def test_what_is_set_is_shown_until_the_next_call(make: Make, num_enter: int, num_exit: int, flag: bool) -> None:
    """A number that was set is the one that is read, in this object alone, and no process waits for it."""
    barrier = make()
    barrier.num_enter, barrier.num_exit, barrier.flag = num_enter, num_exit, flag
    assert (barrier.num_enter, barrier.num_exit, barrier.flag) == (num_enter, num_exit, flag)
    assert (make().num_enter, make().num_exit, make().flag) == (0, -1, True)
    barrier(1)
    assert (barrier.num_enter, barrier.num_exit, barrier.flag) == (0, -1, True)


@pytest.mark.parametrize("rounds", [1, 3])
def test_it_shows_who_has_entered(make: Make, rounds: int) -> None:
    """While one of three waits, in the first round or in one between the same parties, everybody sees that."""
    board, barrier = Board(3), make()
    pids = [worker(make, 3, rounds, board, slot) for slot in range(2)]
    pids.append(worker(make, 3, rounds - 1, board, 2))
    until(lambda: board[2] == rounds - 1)
    waits(barrier, 2)
    assert (barrier.num_exit, barrier.flag) == (3, False)
    for pid in pids:
        kill(pid)


# -- meeting


class Place(NamedTuple):
    """Where a process that was spawned finds the barriers of its test, and the log."""

    url: str
    shared_memory: bool
    log: str

    def go_there(self) -> None:
        module.SCOPE = self.url
        if not self.shared_memory:
            store._native = None  # type: ignore[assignment]


def passes(place: Place, pickled: bytes, parties: int, rounds: int) -> None:
    """A process of any making that passes a barrier it was sent, and writes down when."""
    place.go_there()
    barrier, log = pickle.loads(pickled), Log(place.log)
    for turn in range(rounds):
        log.add("enters", turn)
        barrier(parties)
        log.add("leaves", turn)


@pytest.mark.parametrize(("method", "parties"), [("fork", 2), ("fork", 3), ("spawn", 3)])
def test_processes_meet_again_and_again(make: Make, log: Log, tmp_path: Path, method: str, parties: int) -> None:
    """Nobody leaves a round that not all have entered, in processes that were forked or spawned with the barrier."""
    context = get_context(method)
    place = Place(module.SCOPE, store._native is not None, str(tmp_path / "log"))
    arguments = (place, pickle.dumps(make()), parties, 20)
    processes = [context.Process(target=passes, args=arguments, daemon=True) for _ in range(parties)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * parties
    entries = log.entries()
    assert len(entries) == 2 * 20 * parties
    assert out_of_turn(entries, parties, 20) == []


def test_a_party_that_leaves_too_early_is_found_out() -> None:
    """The judge of such logs rejects one in which a party left while another was still to come."""
    log = [["enters", 0], ["leaves", 0], ["enters", 0], ["leaves", 0]]
    assert out_of_turn(log, 2, 1) == [["leaves", 0]]


def test_an_object_made_late_resets_nothing(make: Make) -> None:
    """A process that makes its object while another one waits finds that waiting, and both pass."""
    waiting = worker(make, 2)
    waits(make())
    late = make()
    assert late.num_enter == 1
    assert called(late, 2, 1) == PASSED
    assert wait(waiting) == PASSED


def test_a_process_forked_from_a_party_is_another_party(make: Make) -> None:
    """The object that a child has from its parent, which has passed with it before, stands for the child."""
    barrier = make()
    barrier(1)
    child = fork(lambda: barrier(2))
    barrier(2)
    assert wait(child) == 0


def test_threads_are_parties(make: Make) -> None:
    """Threads that share an object meet like processes."""
    barrier, passed = make(), []
    threads = [threading.Thread(target=lambda: passed.append(called(barrier, 3, 10))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert passed == [PASSED] * 3


def test_a_number_of_numpys_counts(make: Make) -> None:
    """What streaming computes with numpy may be given as it is; what is no number of processes is refused."""
    make()(np.int64(1))  # type: ignore[arg-type]
    for number in (0, -1):
        with pytest.raises(ValueError, match="parties"):
            make()(number)


# -- ends


def met(make: Make, parties: int, board: Board, rounds: int = 10_000) -> list[int]:
    """So many processes that have met some times already, and go on."""
    pids = [worker(make, parties, rounds, board, slot) for slot in range(parties)]
    until(lambda: min(board[slot] for slot in range(parties)) > 3)
    return pids


def test_whoever_is_killed_is_missed(make: Make) -> None:
    """Two of three, that go from round to round, are told when the third one is killed at any moment."""
    pids = met(make, 3, Board(3))
    kill(pids[1])
    assert [wait(pid) for pid in (pids[0], pids[2])] == [BROKEN] * 2


@pytest.mark.parametrize("rounds", [1, 4])
def test_whoever_is_killed_while_waiting_is_missed(make: Make, rounds: int) -> None:
    """A party that died waiting does not count: whoever waits, and whoever comes, is told its pid."""
    board, barrier = Board(2), make()
    dying = worker(make, 3, rounds, board, 0)
    other = worker(make, 3, rounds, board, 1)
    for _ in range(rounds - 1):
        barrier(3)
    waits(barrier, 2)
    kill(dying)
    with pytest.raises(interlock.BrokenBarrier) as caught:
        barrier(3)
    assert [who.pid for who in caught.value.missing if isinstance(who, interlock.Holder)] == [dying]
    assert str(dying) in str(caught.value)
    assert wait(other) == BROKEN


def test_whoever_is_killed_on_its_way_is_missed(make: Make) -> None:
    """A party of the last round that dies before it enters this one is named to those who wait for it."""
    board = Board(1)

    def lingers() -> None:
        board[0] = called(make(), 2, 2) + 1
        signal.pause()

    dying, barrier = fork(lingers), make()
    assert called(barrier, 2, 2) == PASSED
    until(lambda: board[0] == 1)
    killer = threading.Thread(target=lambda: (waits(make()), kill(dying)))
    killer.start()
    with pytest.raises(interlock.BrokenBarrier, match=f"pid {dying}"):
        barrier(2)
    killer.join()


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise RuntimeError('no data')"])
def test_whoever_ends_is_missed(make: Make, end: str) -> None:
    """A party that ends in order, or by its own error, is missed like one that was killed."""
    barrier, missing = make(), "store._native = None" if store._native is None else ""
    program = f"""
import sys
from interlock.compat.streaming import SharedBarrier, barrier as module
from interlock.shm import store
{missing}
module.SCOPE = {module.SCOPE!r}
barrier = SharedBarrier({barrier.filelock_path!r}, 'barrier')
barrier(2)
barrier(2)
{end}
"""
    ending = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    assert called(barrier, 2, 2) == PASSED
    with pytest.raises(interlock.BrokenBarrier, match="before it arrived"):
        barrier(2)
    assert ending.wait(30) != 0


def test_whoever_is_stopped_is_waited_for(make: Make) -> None:
    """A stopped process is alive: the others wait until it goes on, and then all go on."""

    def stops() -> None:
        barrier = make()
        assert called(barrier, 2, 3) == PASSED
        os.kill(os.getpid(), signal.SIGSTOP)
        assert called(barrier, 2, 3) == PASSED

    stopped, going = fork(stops), worker(make, 2, 6)
    is_stopped(stopped)
    waits(make())
    time.sleep(0.2)  # in which the other one looks ten times whether it lives
    assert make().num_enter == 1
    os.kill(stopped, signal.SIGCONT)
    assert [wait(stopped), wait(going)] == [PASSED] * 2


@pytest.mark.parametrize("scope", ["shm"], indirect=True)
def test_whoever_is_late_is_waited_for(make: Make) -> None:
    """Without a time-out one that comes seconds later than the others breaks nothing, and passes with them."""
    barrier, waiting = make(), worker(make, 2, 4)
    assert called(barrier, 2, 3) == PASSED
    time.sleep(3.5)  # longer than a party waits without telling people for whom
    assert called(barrier, 2, 1) == PASSED
    assert wait(waiting) == PASSED


def test_who_never_came_is_waited_for_until_the_time_is_out(make: Make) -> None:
    """Nobody has met a party that died before its first call; a time-out ends the wait, for all who wait."""
    kill(fork(lambda: make() and os.kill(os.getpid(), signal.SIGKILL)))
    patient, barrier = worker(make, 3), make()
    waits(barrier)
    with pytest.raises(interlock.BrokenBarrier, match="timed out"):
        barrier(3, timeout=0.05)
    assert wait(patient) == BROKEN


def test_ranks_are_not_parties(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of one rank, in a world of as many ranks as there are workers, are not taken for one another."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    pids = met(make, 3, Board(3))
    kill(pids[0])
    assert [wait(pid) for pid in pids[1:]] == [BROKEN] * 2


@pytest.mark.parametrize("rounds", [0, 3])
def test_parties_that_disagree_are_all_told(make: Make, rounds: int) -> None:
    """When one calls for another number, one of the two gets `Mismatch` and the other `BrokenBarrier`: nobody hangs."""
    barrier = make()
    waiting = worker(make, 2, rounds + 1)
    assert called(barrier, 2, rounds) == PASSED
    waits(barrier)
    assert {called(barrier, 3, 1), wait(waiting)} == {DISAGREED, BROKEN}
    with pytest.raises(interlock.BrokenBarrier, match="for another number"):
        barrier(2)


def test_the_number_may_change_between_rounds(make: Make) -> None:
    """Two of three processes may have rounds of their own, if the third one does not come to them."""
    board, barrier = Board(2), make()

    def work(slot: int) -> None:
        for number in (3, 3, 2, 2, 3):
            barrier(number)
            board[slot] += 1

    pids = [fork(functools.partial(work, slot)) for slot in range(2)]
    assert called(barrier, 3, 2) == PASSED
    until(lambda: board[0] == board[1] == 4)
    assert called(barrier, 3, 1) == PASSED
    assert [wait(pid) for pid in pids] == [0, 0]


def test_new_processes_begin_anew(make: Make) -> None:
    """Under the name of a barrier that a kill has broken, processes that were not there meet as if it were new."""
    pids = met(make, 3, Board(3))
    kill(pids[0])
    for pid in pids[1:]:
        wait(pid)
    again = [worker(make, 3, 10) for _ in range(3)]
    assert [wait(pid) for pid in again] == [PASSED] * 3


def test_it_is_broken_until_it_is_reset(make: Make) -> None:
    """Who was there finds it broken again and again; after `reset` it is whole."""
    barrier = make()
    for _ in range(2):
        with pytest.raises(interlock.BrokenBarrier):
            barrier(2, timeout=0.01)
    barrier.reset()
    other = worker(make, 2)
    barrier(2)
    assert wait(other) == PASSED


# -- where it is


def test_a_full_memory_is_no_reason_to_meet_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where shared memory is full just now, the next process may find it: so this one does not go elsewhere."""

    def full(url: str) -> interlock.Session:
        if url == module.SCOPE:
            raise interlock.Unavailable("the disk is full", errno=errno.ENOSPC)
        return interlock.connect(url)

    monkeypatch.setattr(module, "_session", full)
    with pytest.raises(interlock.Unavailable, match="full"):
        SharedBarrier(str(tmp_path / "lock"), "barrier")


def test_it_can_be_looked_at_from_outside(scope: str, make: Make) -> None:
    """Where there is no shared memory the barrier lies beside its path, else in the scope: both are ordinary ones."""
    barrier, before = make(), worker(make, 2)
    waits(barrier)
    url = module.SCOPE if scope == "shm" else f"file://{os.path.dirname(barrier.filelock_path)}/.interlock"
    assert interlock.connect(url).barrier("barrier", 2).waiting == 1
    kill(before)


# -- all of it


def test_eight_workers_of_which_one_is_killed(make: Make, scope: str) -> None:
    """Of eight workers one is killed amid their rounds: no round was passed short, the other seven are told, and
    the next eight workers have their 200 rounds under the same name."""
    rounds = 200 if scope == "shm" else 20
    board = Board(9)

    def work(slot: int, turns: Iterable[int]) -> None:
        barrier = make()
        for turn in turns:
            board[slot] = turn
            try:
                barrier(8)
            except interlock.BrokenBarrier as broken:
                missing = [who.pid for who in broken.missing if isinstance(who, interlock.Holder)]
                os._exit(BROKEN if missing == [board[8]] else 1)
            assert min(board[other] for other in range(8)) >= turn, "a round was passed short"

    def eight(turns: Iterable[int]) -> list[int]:
        for slot in range(8):
            board[slot] = 0
        return [fork(functools.partial(work, slot, turns)) for slot in range(8)]

    pids = eight(itertools.count(1))
    board[8] = pids[3]
    until(lambda: board[3] >= rounds // 2, 60)
    kill(pids[3])
    assert [wait(pid) for pid in pids if pid != pids[3]] == [BROKEN] * 7
    assert max(board[slot] for slot in range(8)) <= board[3] + 1
    assert [wait(pid, 60) for pid in eight(range(1, rounds + 1))] == [PASSED] * 8

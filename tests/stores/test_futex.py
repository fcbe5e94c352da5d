"""Wake-up words between real processes: nothing is lost, time-outs are kept, signals end a sleep."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.processes import Board, collected, fork, wait
from interlock.stores import _futex
from interlock.stores._futex import COUNT, SIZE, Words


@pytest.fixture
def words(tmp_path: Path) -> Iterator[Words]:
    """Mapped words; whoever forks shares them."""
    (tmp_path / "wake").write_bytes(b"\0" * SIZE)
    fd = os.open(tmp_path / "wake", os.O_RDWR)
    yield Words(fd)
    os.close(fd)


def play(words: Words, board: Board, me: int, rounds: int, patience: float) -> int:
    """One side of a ping-pong: sleep until it is my turn, pass it on; how many sleeps lasted their whole time-out."""
    late = 0
    for turn in range(me, 2 * rounds, 2):
        while True:
            seen = words.read(me)
            if board[0] == turn:
                break
            started = time.monotonic()
            words.sleep(me, seen, patience)
            board[2 + me] += 1
            late += time.monotonic() - started >= patience and board[0] == turn
        board[0] = turn + 1
        words.wake(1 - me)
    return late


def test_no_wake_up_is_lost(words: Words) -> None:
    """Two processes hand a turn over ten thousand times; no sleeper misses its wake-up."""
    board, patience = Board(4), 10.0

    def second() -> None:
        board[1] = play(words, board, 1, 5000, patience)

    with collected():
        pid = fork(second)
        late = play(words, board, 0, 5000, patience)
        assert wait(pid) == 0
    assert board[0] == 10_000
    assert late == board[1] == 0
    assert min(board[2], board[3]) > 100, "they hardly slept, so this shows nothing"


def test_a_sleep_ends_at_its_time_out(words: Words) -> None:
    """Nobody wakes it: a sleep lasts its time, give or take the clock's grain, and no longer than it must."""
    started = time.monotonic()
    words.sleep(5, words.read(5), 0.05)
    assert 0.045 <= time.monotonic() - started < 10


def test_a_changed_word_is_not_slept_on(words: Words) -> None:
    """A wake-up between reading the word and sleeping on it ends the sleep at once."""
    seen = words.read(7)
    words.wake(7)
    started = time.monotonic()
    words.sleep(7, seen, 30)
    assert time.monotonic() - started < 10


def test_a_word_wakes_its_own_sleepers_only(words: Words) -> None:
    """Each word is its own: waking one changes no other, first and last included."""
    for index in (0, 1, COUNT - 1):
        before = [words.read(i) for i in range(COUNT)]
        words.wake(index)
        changed = [i for i in range(COUNT) if words.read(i) != before[i]]
        assert changed == [index]


def test_a_word_wraps_around(words: Words) -> None:
    """After its largest value a word begins again at zero, and still wakes."""
    words._words[3] = 0xFFFFFFFF
    words.wake(3)
    assert words.read(3) == 0


@pytest.mark.parametrize("timeout", [0.0, -1.0, 1e-12])
def test_odd_time_outs_return(words: Words, timeout: float) -> None:
    """No time, negative time and less than the clock's grain do not hang."""
    words.sleep(2, words.read(2), timeout)


def test_a_signal_ends_the_sleep(words: Words) -> None:
    """Ctrl-C reaches a sleeper at once, and the next sleep works as before."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGUSR1, interrupt)
    parent = os.getpid()

    def later() -> None:
        time.sleep(0.05)
        os.kill(parent, signal.SIGUSR1)

    try:
        started = time.monotonic()
        with collected():
            pid = fork(later)
            with pytest.raises(KeyboardInterrupt):
                words.sleep(9, words.read(9), 60)
            wait(pid)
        assert time.monotonic() - started < 30
    finally:
        signal.signal(signal.SIGUSR1, previous)
    words.sleep(9, words.read(9), 0.01)


def test_without_a_futex_a_change_is_seen_all_the_same(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without the call, sleeping naps until the word changes or time is up."""
    monkeypatch.setattr(_futex, "_futex_call", lambda mapped: None)
    board = Board(4)

    def second() -> None:
        play(words, board, 1, 20, 30.0)

    with collected():
        pid = fork(second)
        play(words, board, 0, 20, 30.0)
        assert wait(pid) == 0
    words.sleep(4, words.read(4), 0.01)


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    """A truncated file is never mapped: touching it would kill the process."""
    (tmp_path / "wake").write_bytes(b"\0" * (SIZE - 1))
    fd = os.open(tmp_path / "wake", os.O_RDWR)
    with pytest.raises(ValueError, match="too short"):
        Words(fd)
    os.close(fd)

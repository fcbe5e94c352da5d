"""Sessions without kernel locks: a session is alive for as long as the heartbeat in its file goes on.

A file holds the holder, the lease time `ttl_s`, and a counter that its process raises four times in that time. Clocks
of two hosts are never compared to prove a death; "dead" is one of these, and nothing else:

- the holder's process is of this very machine, and gone (`Holder.process_state`); a stopped one lives;
- the file has not changed for the whole lease time by the observer's own monotonic clock, which counts only while the
  observer looks: its own sleep, or a file server that did not answer, is no silence of others.

The other side of the second: who finds that it gave no sign of life for its lease time, because its host slept or the
file server was away, may have been superseded. Its session is lost for good, and it says so (`SessionLost`). Until it
looks it does not know: what it does to a shared resource in that time is refused by its token only
(`files.fenced_replace`). Code that keeps the interpreter's lock for longer than the lease looks dead from outside.
Source: Gray and Cheriton, Leases, 1989.

Layer: under `stores.file`.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from interlock.abc import Liveness
from interlock.errors import InterlockError, SessionLost
from interlock.holder import Holder, span
from interlock.stores._space import Space, reaching

BEATS = 4  # signs of life in a lease time
MARGIN = 0.9  # the part of the lease after which one's own session counts as lost
LEAST_TTL_S, MOST_TTL_S = 0.5, 1e7  # what a lease that is asked for is brought within
_BEATS, _OVER = b"beat", b"over"
_BEAT = b"%b %020d at=%017.6f ttl=%012.3f\n"
_LENGTH = len(_BEAT % (_BEATS, 0, 0.0, 0.0))
_WATCHED_S = 3600.0  # whoever was not looked at for so long is watched from the beginning


@dataclass(slots=True)
class Own:
    """A session of this process: its lease time, when it last gave a sign of life, when the next is due, and why it is
    lost if it is."""

    holder: Holder
    ttl_s: float
    beaten: float
    due: float
    beats: int = 0
    lost: str = ""


class Seen(NamedTuple):
    """What was last seen of another's heartbeat: its bytes, when that was, how long it is silent, and whether it was
    ever seen to change."""

    beat: bytes
    at: float
    silent: float = 0.0
    changed: bool = False


class Heartbeats:
    """The sessions that this process has in a space, and a look at those of others."""

    def __init__(self) -> None:
        self._mine: dict[str, Own] = {}
        self._seen: dict[str, Seen] = {}
        self._space: Space | None = None
        self._guard = threading.Lock()
        self._beating = False
        self._asleep = threading.Lock()  # held by the heart; not an event, which the garbage collector could not set
        self._asleep.acquire()

    def begin(self, space: Space, session: str, holder: Holder, ttl_s: float) -> None:
        """Make the session's file, and keep its heart beating from now on."""
        now, ttl_s = _clock(), min(max(LEAST_TTL_S, ttl_s), MOST_TTL_S)
        own = Own(holder, ttl_s, now, now + ttl_s / BEATS)
        content = holder.to_json().encode() + b"\n" + _beat(own)
        space.publish(session, space.sessions, content)
        with self._guard:
            self._space = space
            self._mine[session] = own
            if not self._beating:
                self._beating = True
                threading.Thread(target=self._go_on, name="interlock heartbeat", daemon=True).start()
        self._wake()

    def end(self, space: Space, session: str, forget: bool) -> None:
        """Stop the session's heart, and remove its file if it is to be forgotten, else write there that it is over.

        It may be called in the middle of anything by the garbage collector, so it takes no lock.
        """
        own = self._mine.pop(session, None)
        if own is None:
            return
        self._wake()
        if forget:
            self.forget(space, session)
        else:
            with reaching(os.path.join(space.path, "sessions", session)), suppress(FileNotFoundError):
                self._write(space, session, _beat(own, _OVER))

    def forget(self, space: Space, session: str) -> None:
        """Remove the file of a session that has ended."""
        self._seen.pop(session, None)
        with reaching(os.path.join(space.path, "sessions", session)), suppress(FileNotFoundError):
            os.unlink(session, dir_fd=space.sessions)

    def move(self, space: Space) -> None:
        """Begin the same sessions in a new space, the old one having been removed from under them.

        Lost ones too, which are those whose file was found to be gone first: what made them so is gone with the space.
        """
        for session, own in list(self._mine.items()):
            self.begin(space, session, own.holder, own.ttl_s)

    def close_all(self) -> None:
        """In a forked child: whose heart beats is the parent's business."""
        self._mine.clear()
        self._wake()

    def demand(self, session: str) -> None:
        """Raise `SessionLost` if a session of this process gave no sign of life for too long."""
        own = self._mine.get(session)
        if own is not None and (why := _lost(own)):
            raise SessionLost(f"{why}, so others may have taken what it held: begin a new session")

    def alive(self, space: Space, session: str) -> Liveness:
        """Whether a session lives, with proof. Takes nothing."""
        own = self._mine.get(session)
        if own is not None:
            why = _lost(own)
            return Liveness("dead" if why else "alive", why or "it is a session of this process", own.holder)
        try:
            holder, beat = _parse(self._read(space, session))
        except (OSError, InterlockError, ValueError) as error:
            return Liveness("unknown", f"its session file cannot be looked at ({error})")
        if beat.startswith(_OVER):
            return Liveness("dead", "it was closed", holder)
        life = holder.process_state()
        if life.state != "unknown":
            return Liveness(life.state, life.proof, holder)
        return self._watched(session, holder, beat)

    def _watched(self, session: str, holder: Holder, beat: bytes) -> Liveness:
        """What the heartbeat tells whoever looks again and again."""
        now, (_, at, ttl_s) = time.monotonic(), _numbers(beat)
        seen = self._seen.pop(session, None) or Seen(beat, now)
        gap = min(now - seen.at, max(ttl_s / BEATS, 1.0))
        if beat == seen.beat:
            seen = seen._replace(at=now, silent=seen.silent + gap)
        else:
            seen = Seen(beat, now, changed=True)
        self._remember(session, seen)
        lease = f"its lease is {span(ttl_s)}"
        if seen.silent >= ttl_s:
            return Liveness("dead", f"no sign of life on {holder.host} for {span(seen.silent)}; {lease}", holder)
        if seen.changed:
            return Liveness("alive", f"its heart beat {span(seen.silent)} ago", holder)
        age = time.time() - at
        if abs(age) < ttl_s:
            return Liveness("alive", f"its heart beat {span(abs(age))} ago by the clock of {holder.host}", holder)
        return Liveness(
            "unknown",
            f"held on {holder.host}, whose heart last beat {span(age)} ago by its own clock, watched from here for "
            f"{span(seen.silent)}; {lease}",
            holder,
        )

    def _remember(self, session: str, seen: Seen) -> None:
        """Keep what was seen; the one that was not looked at for longest stands first, and goes in the end."""
        with self._guard:
            self._seen[session] = seen
            first = next(iter(self._seen))
            if seen.at - self._seen[first].at > _WATCHED_S:
                del self._seen[first]

    def _read(self, space: Space, session: str) -> bytes:
        fd = space.open(session, os.O_RDONLY, space.sessions)  # afresh, so that a network file system reads afresh
        try:
            return os.pread(fd, 65536, 0)
        finally:
            os.close(fd)

    # -- the heart

    def _go_on(self) -> None:
        """Beat until no session is left."""
        while True:
            with self._guard:
                mine = dict(self._mine)
                if not mine or self._space is None:
                    self._beating = False
                    return
            for session, own in mine.items():
                if own.due <= (now := _clock()):
                    own.due = now + own.ttl_s / BEATS
                    self._beat(self._space, session, own)
            self._asleep.acquire(timeout=max(0.0, min(own.due for own in mine.values()) - _clock()))

    def _wake(self) -> None:
        """Let the heart look at once which sessions there are; from anywhere, as this waits for nothing."""
        with suppress(RuntimeError):  # it is awake
            self._asleep.release()

    def _beat(self, space: Space, session: str, own: Own) -> None:
        if _lost(own):
            return
        now = _clock()
        own.beats += 1
        try:
            self._write(space, session, _beat(own))
            own.beaten = now
        except FileNotFoundError:
            if session in self._mine:
                own.lost = "the session's file was removed"
        except (OSError, InterlockError):
            pass  # the next beat may be in time

    def _write(self, space: Space, session: str, beat: bytes) -> None:
        fd = space.open(session, os.O_RDWR, space.sessions)
        try:
            size = os.fstat(fd).st_size
            if size <= _LENGTH or os.pwrite(fd, beat, size - _LENGTH) != _LENGTH:
                raise OSError("the session's file is damaged")
        finally:
            os.close(fd)  # which sends it to a file server


def _lost(own: Own) -> str:
    """Why a session of this process is lost, if it is."""
    silent = _clock() - own.beaten
    if own.lost or silent < own.ttl_s * MARGIN:
        return own.lost
    return f"this process gave no sign of life for {span(silent)} (its lease is {span(own.ttl_s)})"


def _clock() -> float:
    """Seconds that go on while the host sleeps, as they do for everybody else."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _beat(own: Own, word: bytes = _BEATS) -> bytes:
    return _BEAT % (word, own.beats, time.time(), own.ttl_s)


def _parse(content: bytes) -> tuple[Holder, bytes]:
    """Holder and heartbeat of a session's file; raises `ValueError` for anything else."""
    line, beat = content[:-_LENGTH], content[-_LENGTH:]
    _numbers(beat)
    return Holder.from_json(line.decode()), beat


def _numbers(beat: bytes) -> tuple[int, float, float]:
    """Count, wall clock and lease time of a heartbeat."""
    words = beat.split()
    if len(beat) != _LENGTH or len(words) != 4 or words[0] not in (_BEATS, _OVER):
        raise ValueError("its heartbeat is damaged")
    count, at, ttl_s = int(words[1]), float(words[2][3:]), float(words[3][4:])
    if not (LEAST_TTL_S <= ttl_s <= MOST_TTL_S and abs(at) < math.inf):
        raise ValueError("its heartbeat is damaged")
    return count, at, ttl_s

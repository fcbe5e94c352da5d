"""Where the hosts of a probe meet: a folder in the measured directory, and files in which they write to each other.

Whoever makes the folder leads; who finds it made is a guest. What somebody says is a file of its own, numbered, whole
from the start, and never changed. Who waits for it looks for a name that was not there, and opens the folder afresh
each time: no cache of a file's bytes, size or name is older than that look.

1. Nobody waits for ever: who hears nothing from the other side for `patience` seconds gives up, with an error that
   says so. Who gives up says that too, so that the others need not wait.
2. Whoever leads removes the folder, however it ends; a guest does it only if the leader has fallen silent.
3. Only what lies in the folder is ever written or removed, through its descriptor. It is not entered through a symbolic
   link, nor if somebody else made it.
4. Files are opened by one call of C, so that an interrupt finds each of them open in a block that closes it, or not at
   all: a file that stays open cannot be removed from a network file system, nor can its folder.

Layer: under `doctor`; it stands on `doctor.hand`.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from interlock.doctor.hand import Hand, Refused, do
from interlock.errors import Unavailable
from interlock.stores._space import reaching

LEADER = "leader"
KILL = "kill"
_LAST = ".last"
_PREFIX = ".interlock-doctor-"
_NAP_S, _LONGEST_NAP_S = 0.0005, 0.02
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_REMOVALS = 5  # attempts: a network file system keeps what is open under another name for a moment

Message = dict[str, Any]


class Silence(Unavailable):
    """Somebody who was waited for said nothing. Definite."""


class Folder:
    """The folder of one probe, open. `leads` tells whether this process made it."""

    def __init__(self, path: str, name: str) -> None:
        self.name = _PREFIX + name
        self.path = os.path.join(path, self.name)
        with reaching(path):
            self._parent = os.open(path, _DIRECTORY)
        try:
            with reaching(self.path):
                self.leads = self._made()
                self.fd = os.open(self.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._parent)
        except BaseException:
            os.close(self._parent)
            raise

    def _made(self) -> bool:
        try:
            os.mkdir(self.name, 0o700, dir_fd=self._parent)
        except FileExistsError:
            found = os.stat(self.name, dir_fd=self._parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                raise Unavailable(f"{self.path} is not a folder of a probe; nothing was touched") from None
            return False
        return True

    def demand_own(self, file: str) -> None:
        """Raise unless who makes files here also made the folder: another user may have, and may change anything."""
        if os.stat(file, dir_fd=self.fd).st_uid != os.fstat(self.fd).st_uid:
            raise Unavailable(f"{self.path} was made by another user; choose another --probe name")

    def gone(self) -> bool:
        """Whether somebody has removed it."""
        try:
            os.stat(self.name, dir_fd=self._parent, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    def ended(self) -> Unavailable:
        """The error of whoever finds it gone."""
        return Unavailable(f"the probe has ended without a verdict: {self.path} was removed", path=self.path)

    def names(self) -> list[str]:
        """The files in it, listed afresh."""
        fd = os.open(".", _DIRECTORY, dir_fd=self.fd)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Remove it with all that is in it; what still uses it finds that it is gone."""
        for attempt in range(_REMOVALS):
            with suppress(OSError):
                for name in self.names():
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=self.fd)
            try:
                os.rmdir(self.name, dir_fd=self._parent)
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02 * attempt)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)
        os.close(self._parent)


class Mail:
    """What one participant says, and what it hears of the others. `me` is its name here."""

    def __init__(self, folder: Folder, patience: float) -> None:
        self.me = LEADER if folder.leads else f"guest-{os.urandom(6).hex()}"
        self.patience = patience
        self._folder = folder
        self._said = 0
        self._heard: dict[str, int] = {}
        self._gone: set[str] = set()  # those of whom nothing more will be heard

    def post(self, message: Message) -> str:
        """Say something to all; the name of the file that says it."""
        name = f"{self.me}.{self._said}"
        self._write(name, message)
        self._said += 1
        return name

    def part(self, message: Message) -> None:
        """Say the last word, if it can still be said. It has a name of its own: what is interrupted has no number."""
        with suppress(OSError):
            self._write(self.me + _LAST, message)

    def _write(self, name: str, message: Message) -> None:
        folder, draft = self._folder.fd, f".{os.urandom(6).hex()}"
        try:
            with open(draft, "x", encoding="utf-8", opener=partial(os.open, mode=0o600, dir_fd=folder)) as file:
                json.dump(message, file)
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:
            raise self._folder.ended() from None

    def wait(self, who: str, called: str = "") -> Message:
        """The next message of another participant, or its last.

        Args:   called: what people call it.
        Raises: Silence: it said nothing for `patience` seconds. Unavailable: it has given up, or the folder is gone.
        """
        name = f"{who}.{self._heard.get(who, 0)}"
        end, nap = time.monotonic() + self.patience, _NAP_S
        while (message := self._look(name)) is None and (message := self._look(who + _LAST)) is None:
            if self._folder.gone() or time.monotonic() > end:
                self._gone.add(who)
                raise self._silence(called or who)
            self._folder.names()
            time.sleep(nap)
            nap = min(nap * 1.2, _LONGEST_NAP_S)
        self._heard[who] = self._heard.get(who, 0) + 1
        if "left" in message or "bye" in message:
            self._gone.add(who)
        if "left" in message:
            raise Unavailable(f"{called or who} has given up: {message['left']}")
        return message

    def _silence(self, who: str) -> Unavailable:
        if self._folder.gone():
            return self._folder.ended()
        return Silence(f"{who} has said nothing for {self.patience:g} s: it was killed, or its host hangs")

    def _look(self, name: str) -> Message | None:
        try:
            with open(name, encoding="utf-8", opener=partial(os.open, dir_fd=self._folder.fd)) as file:
                message: Message = json.load(file)
                return message
        except FileNotFoundError:
            return None

    def await_last_words(self, seconds: float) -> None:
        """Wait until every guest has said its last word, for it has heard ours then; at most so many seconds."""
        end = time.monotonic() + seconds
        with suppress(OSError):
            for guest in self.guests():
                while guest not in self._gone:
                    self.patience = max(0.0, end - time.monotonic())
                    with suppress(Unavailable):
                        self.wait(guest)

    def guests(self) -> Iterator[str]:
        """The guests that have said something.

        Raises: Unavailable: the folder is gone.
        """
        if self._folder.gone():  # a folder that somebody removed can still be listed, and is empty
            raise self._folder.ended()
        first = (name for name in self._folder.names() if name.startswith("guest-") and name.endswith(".0"))
        return (name.removesuffix(".0") for name in first)


class Distant:
    """A hand on another host, told what to do by the leader's messages; its own side is `serve`."""

    ahead = 0.0

    def __init__(self, mail: Mail, guest: str, host: str) -> None:
        self.host = host
        self._mail = mail
        self._guest = guest

    def begin(self, step: str, *arguments: Any) -> None:
        self._mail.post({"to": self._guest, "step": step, "arguments": arguments})

    def end(self) -> Any:
        answer = self._mail.wait(self._guest, self.host)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["answer"]

    def kill(self) -> None:
        do(self, KILL)


def serve(mail: Mail, hand: Hand) -> Message:
    """Let the leader use this hand, until its last word, which is returned."""
    while True:
        message = mail.wait(LEADER, "the leader of the probe")
        if "verdict" in message:
            return message
        if message.get("to") == mail.me:
            mail.post(_served(hand, message))


def _served(hand: Hand, message: Message) -> Message:
    if message["step"] == KILL:
        hand.kill()
        return {"answer": None}
    try:
        return {"answer": do(hand, message["step"], *message["arguments"])}
    except Refused as refusal:
        return {"refused": str(refusal)}

"""Stub commands that print what real ones have printed, and holders to ask about."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interlock import schedulers
from interlock.holder import Holder, Life
from interlock.schedulers import _command

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> str:
    """What a command has printed, without the line that names the source."""
    source, _, text = (RECORDED / f"{name}.txt").read_text().partition("\n")
    assert source.startswith("# ")
    return text


class Stubs:
    """The only commands on $PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def script(self, program: str, *lines: str) -> None:
        """A command that is a shell script."""
        path = self.directory / program
        path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def says(self, program: str, text: str = "", *, complaint: str = "", code: int = 0) -> None:
        """A command that prints a text and a complaint, and notes how it was called."""
        for suffix, content in (("out", text), ("err", complaint)):
            (self.directory / f"{program}.{suffix}").write_text(content)
        here, cat = self.directory / program, shutil.which("cat", path="/bin:/usr/bin")
        self.script(
            program,
            f"printf '%s\\n' \"$@\" > '{here}.called'",
            f"{cat} '{here}.out'",
            f"{cat} '{here}.err' >&2",
            f"exit {code}",
        )

    def called(self, program: str) -> list[str]:
        """The arguments of the last call."""
        return (self.directory / f"{program}.called").read_text().splitlines()


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubs]:
    """An empty $PATH for stubs, and nothing remembered."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    _forget()
    yield Stubs(directory)
    _forget()


@pytest.fixture
def ask(stubs: Stubs) -> Callable[[Holder], Life]:
    """Asks afresh what the stubs have to say about a holder."""

    def life(holder: Holder) -> Life:
        _forget()
        verdict = schedulers.life(holder)
        assert verdict is not None
        assert verdict.proof.isprintable()
        return verdict

    return life


def _forget() -> None:
    schedulers._remembered.clear()
    _command._resting.clear()


def in_time(text: str) -> float:
    """The wall clock seconds of a local time such as ``2024-03-12 13:05``."""
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))

"""`interlock scopes`: which scopes of shared memory there are, who is there, and the removal of what is left over."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator

import pytest

import interlock
from cli.command import Command
from conftest import NATIVE, new_scope
from processes import kill, start

pytestmark = pytest.mark.skipif(not NATIVE, reason="the extension was not built")


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty scope of shared memory."""
    yield from new_scope("shm", tmp_path_factory.getbasetemp())


def facts(command: Command, url: str) -> dict[str, object]:
    """What is told of one scope."""
    (found,) = json.loads(command("scopes", url.removeprefix("shm://"), "--json").stdout)
    assert isinstance(found, dict)
    return found


def test_a_scope_in_use_is_listed_and_kept(command: Command, url: str) -> None:
    """Whoever is there is named, and `--clear` leaves the scope and its locks as they are."""
    with interlock.connect(url, note="at work") as session, session.lock("a") as grant:
        told = facts(command, url)
        assert (told["url"], told["sessions"]) == (url, 1)
        assert "at work" in str(told["who"])
        assert "at work" in command("scopes", url.removeprefix("shm://")).stdout
        assert command("scopes", url.removeprefix("shm://"), "--clear", "--json").stdout == "[]\n"
        assert session.lock("a").held
        assert grant.token


def test_what_the_dead_left_is_removed(command: Command, url: str) -> None:
    """The scope of a killed process is left over: `--clear` removes its directory, and a new one begins above it."""

    def hold() -> None:
        session = interlock.connect(url)
        token = session.lock("a").acquire().token
        os.write(there, str(token).encode())
        os.read(there_to_stay, 1)

    here, there = os.pipe()
    there_to_stay, _ = os.pipe()
    process = start(hold)
    token = int(os.read(here, 64))
    kill(process)
    told = facts(command, url)
    assert told["sessions"] == 0
    assert command("scopes", url.removeprefix("shm://"), "--clear").stdout == f"removed {url}\n"
    assert not os.path.exists(str(told["path"]))
    with interlock.connect(url) as session:
        assert session.lock("a").acquire().token > token


def test_nothing_is_no_error(command: Command) -> None:
    """A prefix that no scope has lists nothing."""
    done = command("scopes", uuid.uuid4().hex)
    assert (done.returncode, done.stdout) == (0, "")

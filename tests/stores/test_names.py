"""Bad input at the door: names and URLs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import interlock
from interlock.stores._locked import OPEN_FILES


@pytest.mark.parametrize("name", ["", "x" * 10_000, "a\0b", None, 7, b"bytes"])
def test_what_cannot_be_a_name_is_refused(file_url: str, tmp_path: Path, name: object) -> None:
    """A bad name is an `InvalidName` when the object is made, before anything touches the disk."""
    with interlock.connect(file_url) as session:
        for make in (session.lock, session.rwlock, session.event, lambda n: session.semaphore(n, 2)):
            with pytest.raises(interlock.InvalidName):
                make(name)  # type: ignore[operator]
    assert not (tmp_path / "space").exists()


ODD = [
    "a", "A", "a/b", "a/../b", "..", ".", "/etc/passwd", "../../x", "a\nb", "\n", " ", "a b", "-rf", "~", "*", "%00",
    "ä", "a\u0308", "日本語", "\ud800", "\ud83d\ude00", "\U0001f600", "💾", "\x1b[31m", "x" * 1000,
    "settings.json", "con", '"', "'", "\\", '{"kind":"lock"}',
]  # fmt: skip


def test_odd_names_are_names_like_any_other(file_url: str, tmp_path: Path) -> None:
    """Each odd name is a lock of its own, held at the same time as all the others, within the space's folder."""
    with interlock.connect(file_url) as session, interlock.connect(file_url) as other:
        grants = [session.lock(name).acquire(timeout=30) for name in ODD]
        assert [grant.token for grant in grants] == [1] * len(ODD)
        for name in ODD:
            assert other.lock(name).try_acquire() is None
        with interlock.connect(file_url) as third:
            found = [stored.name for stored in third.store.records() if not isinstance(stored, Exception)]
        assert len(found) == len(ODD)
        for grant in grants:
            grant.release()
    assert sorted(os.listdir(tmp_path)) == ["space"]
    assert len(os.listdir(tmp_path / "space" / "records")) == len(ODD)


def test_random_names_never_share_a_record(file_url: str, tmp_path: Path) -> None:
    """Random names get records of their own, many more than the process keeps open."""
    chance = random.Random(5)
    names = {"".join(chance.choices("aAbBäß./ _~\n日\ud801", k=chance.randint(1, 12))) for _ in range(800)}
    before = len(os.listdir("/proc/self/fd"))
    with interlock.connect(file_url) as session:
        for number, name in enumerate(sorted(names)):
            grant = session.lock(name).acquire(timeout=30)
            assert grant.token == 1, f"{name!r}, the {number}th name, shares its record"
            if number % 10:
                grant.release()
        assert len(names) > 2 * OPEN_FILES
        assert len(os.listdir("/proc/self/fd")) < before + OPEN_FILES + 20, "record files stay open without end"
        assert len(os.listdir(tmp_path / "space" / "records")) == len(names)


@pytest.mark.parametrize(
    "url",
    [
        "gopher://x", "file://relative/path", "file://", "file:///x?primitive=none", "file:///x?unknown=1",
        "file:///x#part", "file://otherhost/x", "file:///x%00y", "://x", "redis:", "memory://x?y", "memory://x#y",
    ],
)  # fmt: skip
def test_a_bad_url_is_refused_with_itself_in_the_message(url: str) -> None:
    """Unknown schemes and malformed URLs are `Unavailable` at `connect`, and the message shows the URL."""
    with pytest.raises(interlock.Unavailable) as caught:
        interlock.connect(url)
    assert url.split("?")[0].split("#")[0] in str(caught.value)


def test_a_plain_path_is_a_url_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory's path, absolute or relative, and its URL with odd characters name the same space."""
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "sp ace%41#?ä\udcff"
    session = interlock.connect(odd)
    assert interlock.connect("sp ace%41#?ä\udcff").url == session.url
    assert interlock.connect(session.url).store is session.store
    with session.lock("x"):
        assert interlock.connect(odd).lock("x").locked()
    assert (odd / "records").is_dir()

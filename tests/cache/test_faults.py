"""What may befall a cache: full disks, damage, planted files, missing rights. Never wrong data, and work goes on."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import interlock
from crash.processes import collected, fork, wait
from interlock.cache import Cache
from processes import as_root, become_nobody, open_directory, run

Opened = Callable[..., Cache]
VALUE = numpy.arange(100.0)


def path_of(cache: Cache, key: Any) -> Path:
    return Path(cache._shards.path(interlock.keys.canonical(key)))


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_full_disk(opened: Opened, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`put` names the path and leaves nothing; `get_or_compute` computes, warns once, and goes on; then all is well."""
    cache = opened(directory=small_disk / "cache")
    cache.put("small", VALUE)
    before = files(small_disk)
    large = numpy.zeros(100_000)
    with pytest.raises(OSError, match="No space left") as caught:
        cache.put("large", large)
    assert caught.value.filename == str(path_of(cache, "large"))
    assert files(small_disk) == before
    for _ in range(2):
        assert numpy.array_equal(cache.get_or_compute("large", lambda: large), large)
    assert [record.name for record in caplog.records] == ["interlock"]
    assert "No space left" in caplog.text
    assert files(small_disk) == before
    assert numpy.array_equal(cache.get("small"), VALUE)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    cache.get_or_compute("large", lambda: large)
    assert "large" in cache


def test_on_a_full_disk_everybody_computes(file_url: str, small_disk: Path) -> None:
    """Those who waited for a value that could not be stored compute it themselves, and at the same time."""
    large = numpy.ones(100_000)

    def ask() -> None:
        cache = Cache(interlock.connect(file_url), "cache", directory=small_disk / "cache")
        assert numpy.array_equal(cache.get_or_compute("key", lambda: large), large)

    with collected():
        assert [wait(pid) for pid in [fork(ask) for _ in range(4)]] == [0] * 4
    assert files(small_disk) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.booleans(), place=st.integers(0, 10**6))
def test_damage_is_healed(cache: Cache, caplog: pytest.LogCaptureFixture, cut: bool, place: int) -> None:
    """However a file is cut or changed, its value is computed again and right; the damage is counted and told."""
    caplog.set_level(logging.CRITICAL, "interlock")
    cache.put("key", VALUE)
    path = path_of(cache, "key")
    content = bytearray(path.read_bytes())
    if cut:
        content = content[: place % len(content)]
    else:
        bit = place % (len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    before = cache.stats().healed
    assert numpy.array_equal(cache.get_or_compute("key", lambda: VALUE + 1), VALUE + 1)
    assert cache.stats().healed == before + 1
    assert numpy.array_equal(cache.get("key"), VALUE + 1)


def test_damage_is_told_once_and_explained(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged entry is removed with one warning that names it; `verify` and `explain` know."""
    cache.put("key", VALUE)
    path = path_of(cache, "key")
    path.write_bytes(path.read_bytes()[:-1])
    assert [(Path(one.path), "cut" in one.damage) for one in cache.verify()] == [(path, True)]
    assert cache.explain("key").startswith("damaged")
    assert list(cache.listing()) == []
    assert cache.get("key", "nothing") == "nothing"
    assert cache.get("key", "nothing") == "nothing"
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    assert not path.exists()
    assert cache.explain("key").startswith("missing: found damaged (it does not end like an entry")


def plant_link(path: Path) -> None:
    (path.parent / "target").write_bytes(b"something else")
    path.symlink_to("target")


def plant_file(path: Path) -> None:
    path.write_bytes(b"something else")


@pytest.mark.parametrize("plant", [plant_file, plant_link, os.mkfifo], ids=["file", "link", "pipe"])
def test_what_is_planted_is_replaced(cache: Cache, plant: Callable[[Path], None]) -> None:
    """A foreign file, a link or a pipe in the place of an entry is a miss; a link's target is left alone."""
    cache.put("key", VALUE)
    path = path_of(cache, "key")
    path.unlink()
    plant(path)
    assert numpy.array_equal(cache.get_or_compute("key", lambda: VALUE + 1), VALUE + 1)
    assert path.is_file()
    assert not path.is_symlink()
    if (path.parent / "target").exists():
        assert (path.parent / "target").read_bytes() == b"something else"


def test_a_directory_in_the_way_is_an_error(cache: Cache) -> None:
    """A directory in the place of an entry is not ours to remove: every operation names it."""
    cache.put("key", VALUE)
    path = path_of(cache, "key")
    path.unlink()
    (path / "inside").mkdir(parents=True)
    for ask in (cache.get, cache.delete, lambda key: cache.put(key, 1), lambda key: cache.get_or_compute(key, int)):
        with pytest.raises(OSError, match=path.name):
            ask("key")
    assert [str(path) for path, _ in cache.verify()] == [str(path)]


def test_a_file_in_the_place_of_the_cache(opened: Opened, tmp_path: Path) -> None:
    """A file where the directory should be is a clear error, not a cache that is empty for ever."""
    (tmp_path / "cache").write_text("mine")
    cache = opened(directory=tmp_path / "cache")
    for ask in (cache.get, lambda key: cache.put(key, 1), lambda key: cache.get_or_compute(key, int)):
        with pytest.raises(NotADirectoryError, match="cache"):
            ask("key")


@as_root
def test_a_directory_that_may_only_be_read() -> None:
    """Where a user may read but not write, values are read, and missing ones computed with a warning."""
    with open_directory() as folder:
        make = Cache(interlock.connect("memory://"), "cache", directory=folder / "cache")
        make.put("key", VALUE)
        run(os.system, f"chmod -R a+rX {folder}")

        def use() -> None:
            become_nobody()
            cache = Cache(interlock.connect("memory://mine"), "cache", directory=folder / "cache")
            assert numpy.array_equal(cache.get("key"), VALUE)
            assert cache.get_or_compute("other", lambda: 5) == 5
            with pytest.raises(PermissionError, match="cache"):
                cache.put("other", 5)

        run(use)
        assert make.stats().entries == 1


@as_root
def test_an_entry_that_may_not_be_read_is_told() -> None:
    """An entry of another user, who keeps it private, is an error that names it, not a miss for ever."""
    with open_directory() as folder:
        Cache(interlock.connect("memory://"), "cache", directory=folder / "cache").put("key", VALUE)

        def use() -> None:
            become_nobody()
            cache = Cache(interlock.connect("memory://mine"), "cache", directory=folder / "cache")
            with pytest.raises(PermissionError, match="cache"):
                cache.get("key")

        run(use)


@as_root
def test_a_group_shares_a_cache() -> None:
    """In a setgid directory members of the group read, replace and evict what others wrote, whatever the umask."""
    group = 65500
    with open_directory() as folder:
        shared = folder / "shared"
        shared.mkdir()
        os.chown(shared, 0, group)
        shared.chmod(0o2770)

        def member(user: int, work: Callable[[Cache], None]) -> Callable[[], None]:
            def use() -> None:
                os.setgroups([group])
                os.setgid(user)
                os.setuid(user)
                os.umask(0o077)
                with interlock.connect(f"file://{shared}/space") as session:
                    work(Cache(session, "cache", limit_bytes=100_000))

            return use

        def first(cache: Cache) -> None:
            cache.put("key", VALUE)
            cache.put("other", 1)
            cache.delete("other")

        def second(cache: Cache) -> None:
            assert numpy.array_equal(cache.get("key"), VALUE)
            cache.put("key", VALUE + 1)
            cache.delete("key")
            assert cache.get_or_compute("key", lambda: 5) == 5
            assert cache.explain("other").startswith("missing: deleted")
            assert cache.explain("key").startswith("present")

        run(member(60_001, first))
        run(member(60_002, second))


def test_a_store_that_cannot_be_used(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the session cannot say who computes, everybody does, with a warning; the value is stored all the same."""
    cache = opened(directory=tmp_path / "elsewhere")

    def fail(*_: object, **__: object) -> None:
        raise interlock.Unavailable("no store")

    monkeypatch.setattr(cache.session.store, "transact", fail)
    assert cache.get_or_compute("key", lambda: 5) == 5
    assert "key" in cache


def test_a_failing_disk_is_told(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that cannot be read because of the disk is an error, not a miss that hides it."""
    cache.put("key", VALUE)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match="Input/output"):
        cache.get("key")

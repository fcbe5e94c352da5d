"""The cache as one process uses it: values by key, errors, what it says of itself."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import interlock
from interlock import codecs, entries
from interlock.cache import Cache
from processes import run

Opened = Callable[..., Cache]


def never() -> None:
    raise AssertionError("computed again")


@pytest.mark.parametrize("value", [None, 0, "text", b"bytes", [1, (2,)], numpy.float32(0.5), {"a": 1}])
def test_a_value_comes_back(opened: Opened, value: Any) -> None:
    """What was put is got, here, a second time, and by another participant; falsy values are values."""
    one, other = opened(), opened()
    assert one.get("key", "nothing") == "nothing"
    one.put("key", value)
    for found in (one.get("key", never), one.get("key", never), other.get("key", never)):
        assert found == value
        assert type(found) is type(value)
    assert one.get_or_compute("key", never) == value


def test_keys_that_look_alike_are_apart(opened: Opened) -> None:
    """1, 1.0, True, "1" and b"1" each have an entry of their own, also when all are kept in memory."""
    keys = [1, 1.0, True, "1", b"1", (1,), "(1,)", ("1",), numpy.int64(1)]
    for cache in (opened(), opened()):
        for number, key in enumerate(keys):
            assert cache.get_or_compute(key, lambda number=number: number) == number
        assert [cache.get(key) for key in keys] == list(range(len(keys)))
    assert cache.stats().entries == len(keys)


@pytest.mark.parametrize("size", [10, entries.MAPPED_FROM])
def test_arrays_are_read_only_and_of_their_own(opened: Opened, size: int) -> None:
    """Nobody can change a cached array, nor its shape for somebody else; large and small ones, kept and reread."""
    cache = opened()
    array = numpy.arange(float(size))
    cache.put("key", array)
    array += 1
    for _ in range(2):
        found = cache.get("key")
        assert found[-1] == size - 1
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 7
        found.shape = (1, size)
    assert cache.get("key").shape == (size,)


def test_a_value_that_can_be_changed_is_not_shared(cache: Cache) -> None:
    """A list that was got and changed is as it was when it is got again."""
    cache.put("key", [1])
    cache.get("key").append(2)
    assert cache.get("key") == [1]


def test_what_another_participant_writes_is_seen_at_once(opened: Opened) -> None:
    """A kept value does not outlive its file: replaced, deleted and cleared entries are seen by all."""
    one, other = opened(), opened()
    for number in range(50):
        one.put("key", f"value {number % 10}")
        assert other.get("key") == f"value {number % 10}"
    assert one.delete("key")
    assert not one.delete("key")
    assert other.get("key") is None
    one.put("key", 1)
    other.put("other", 2)
    assert one.clear() == 2
    assert (other.get("key"), other.get("other"), one.get("key")) == (None, None, None)


def test_contains(cache: Cache) -> None:
    """A key is in the cache if it has a value, not if it has an error."""
    cache.put("key", None)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute("error", lambda: 1 / 0, keep_errors=True)
    assert ("key" in cache, "error" in cache, "other" in cache) == (True, False, False)


def test_everybody_gets_the_value_as_it_reads_back(cache: Cache) -> None:
    """The one who computes gets what all others get: a read-only array, not its own."""
    found = cache.get_or_compute("key", lambda: numpy.arange(3))
    assert not found.flags.writeable


def test_errors_are_not_stored(cache: Cache) -> None:
    """An error reaches the caller as it was raised, and the next call computes again."""
    error = ValueError("no")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="no") as caught:
        cache.get_or_compute("key", fail)
    assert caught.value is error
    assert cache.get_or_compute("key", lambda: 5) == 5


def test_errors_are_kept_if_asked(opened: Opened) -> None:
    """With `keep_errors` later calls raise the error without computing, `get` finds nothing, and `put` replaces it."""
    with pytest.raises(KeyError, match="no"):
        opened().get_or_compute("key", lambda: {}["no"], keep_errors=True)
    cache = opened()
    with pytest.raises(KeyError, match="no"):
        cache.get_or_compute("key", never)
    assert cache.get("key", "nothing") == "nothing"
    cache.put("key", 1)
    assert cache.get_or_compute("key", never) == 1


def test_an_interrupt_is_not_an_outcome(cache: Cache) -> None:
    """A computation that was interrupted left nothing: the next call computes."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_compute("key", interrupt, keep_errors=True)
    assert cache.get_or_compute("key", lambda: 5) == 5


def test_a_function_that_asks_for_its_own_key_is_told(cache: Cache) -> None:
    """Waiting for oneself is a Deadlock at once; other keys may be computed on the way."""

    def ask() -> Any:
        assert cache.get_or_compute("other", lambda: 1) == 1
        return cache.get_or_compute("key", lambda: 2)

    with pytest.raises(interlock.Deadlock, match="key"):
        cache.get_or_compute("key", ask)
    assert cache.get_or_compute("key", lambda: 3) == 3


def test_what_no_codec_takes_is_refused(cache: Cache) -> None:
    """A value that cannot be stored is a TypeError from `put` and from `get_or_compute`."""
    with pytest.raises(TypeError, match="cannot be stored"):
        cache.put("key", object())
    with pytest.raises(TypeError, match="cannot be stored"):
        cache.get_or_compute("key", object)
    with pytest.raises(TypeError, match="key"):
        cache.put(object(), 1)


def test_threads_compute_once(cache: Cache) -> None:
    """Threads that share a cache compute a key once; all get the value."""
    together, computed, found = threading.Barrier(8), [], []

    def compute() -> int:
        computed.append(1)
        return 42

    def ask() -> None:
        together.wait()
        found.append(cache.get_or_compute("key", compute))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (computed, found) == ([1], [42] * 8)


def test_a_timeout_names_who_computes(opened: Opened) -> None:
    """Whoever will not wait gets AcquireTimeout, and nothing was computed."""
    one, other = opened(), opened()

    def compute() -> int:
        with pytest.raises(interlock.AcquireTimeout, match=f"pid {os.getpid()}"):
            other.get_or_compute("key", never, timeout=0)
        return 1

    assert one.get_or_compute("key", compute) == 1


def test_stats_count_this_process(opened: Opened) -> None:
    """Hits, misses, computations and bytes are counted; a forked child counts its own from nothing."""
    cache = opened()
    assert cache.stats() == (0, 0, 0, 0, 0, 0, 0.0, 0, 0)
    cache.get("a")
    cache.get_or_compute("a", lambda: 1)
    cache.get("a")
    opened().get("a")
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.computed, stats.entries) == (1, 2, 1, 1)
    assert stats.seconds_saved > 0
    path = next(cache.listing()).path
    assert stats.bytes == os.path.getsize(path)

    def child() -> None:
        assert cache.stats().hits == 0
        assert cache.get("a") == 1
        assert cache.stats().hits == 1

    run(child)


def test_explain(opened: Opened) -> None:
    """A person learns whether a value is there, who computed it, and why it is not."""
    cache = opened()
    assert cache.explain("key") == "missing: never computed"
    cache.get_or_compute("key", lambda: 1)
    assert f"pid {os.getpid()}" in cache.explain("key")
    assert "computed in" in cache.explain("key")
    cache.delete("key")
    assert cache.explain("key").startswith("missing: deleted on 20")
    opened().put("key", 2)
    assert "present" in cache.explain("key")
    assert "an earlier one was deleted" in cache.explain("key")
    cache.clear()
    assert cache.explain("key").startswith("missing: cleared on 20")


def test_the_journal_is_bounded(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much goes away, the journal is two files of bounded size, and knows the latest."""
    monkeypatch.setattr("interlock.cache.shards._JOURNAL_BYTES", 1000)
    for number in range(100):
        cache.put(number, 1)
        cache.delete(number)
    journals = [path for path in Path(cache.directory).iterdir() if path.name.startswith("journal")]
    assert len(journals) == 2
    assert all(path.stat().st_size < 1200 for path in journals)
    assert "deleted" in cache.explain(99)
    assert cache.explain(0) == "missing: never computed"


def test_listing_tells_keys(cache: Cache) -> None:
    """Every entry is listed with its key's text and what it says of itself."""
    cache.put(("a", 1), "x")
    cache.put(2.5, numpy.arange(3))
    listed = {one.note.key: one for one in cache.listing()}
    assert set(listed) == {"('a', 1)", "2.5"}
    assert listed["2.5"].note.codec == "npy"
    assert listed["2.5"].bytes == os.path.getsize(listed["2.5"].path)


def test_opening_touches_no_file(tmp_path: Path) -> None:
    """To make a cache reads and writes nothing, so that any number of processes may do it at once."""
    session = interlock.connect(f"file://{tmp_path}/space")
    Cache(session, "cache", limit_bytes=100)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["../evil", "..", ".", "a/b", ".hidden", "null distributions", "é"])
def test_a_name_is_one_directory_of_the_space(file_url: str, name: str) -> None:
    """Whatever its name, a cache's directory is one below ``caches`` of the space, and names do not meet."""
    directory = Path(Cache(interlock.connect(file_url), name).directory)
    assert directory.parent == Path(file_url.removeprefix("file://")) / "caches"
    assert os.path.normpath(directory) == str(directory)
    assert not directory.name.startswith(".")


def test_names_that_make_no_directory_are_refused(file_url: str) -> None:
    """A name that is too long for a file, or empty, is refused when the cache is made."""
    for name in ("é" * 100, ""):
        with pytest.raises(interlock.InvalidName):
            Cache(interlock.connect(file_url), name)


def test_without_a_space_it_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session without a directory has its caches below $XDG_CACHE_HOME, else below ~/.cache."""
    session = interlock.connect("memory://")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache(session, "name").directory == f"{tmp_path}/interlock/name"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache(session, "name").directory == f"{tmp_path}/.cache/interlock/name"
    cache = Cache(session, "name")
    assert cache.get_or_compute("key", lambda: 5) == cache.get("key") == 5


def test_it_pickles(opened: Opened) -> None:
    """A cache that was pickled is the same cache, options included."""
    cache = opened(limit_bytes=10**6, allow_pickle=True)
    cache.put("key", {1})
    found = pickle.loads(pickle.dumps(cache))
    assert found.get("key") == {1}
    assert (found.limit_bytes, found.directory) == (10**6, cache.directory)


def test_the_entry_of_another_key_is_not_believed(opened: Opened) -> None:
    """An entry in the place of another key's, as after a mishap with copies, is a miss."""
    cache, other = opened(), opened()
    cache.put("a", 1)
    cache.put("b", 2)
    paths = {one.note.key: one.path for one in cache.listing()}
    os.replace(paths["'a'"], paths["'b'"])
    assert other.get("b") is None
    assert other.stats().healed == 1


def test_pickles_only_if_allowed(opened: Opened) -> None:
    """A pickled entry is loaded where pickles are allowed; elsewhere it is a miss that stays for those who may."""
    trusting, careful = opened(allow_pickle=True), opened()
    trusting.put("key", {1, 2})
    assert opened(allow_pickle=True).get("key") == {1, 2}
    assert careful.get("key", "nothing") == "nothing"
    assert careful.stats().healed == 0
    assert trusting.get("key") == {1, 2}
    assert careful.get_or_compute("key", lambda: 5) == 5


def test_pickles_only_where_nobody_else_writes(opened: Opened, tmp_path: Path) -> None:
    """In a directory that others may write pickles are neither stored nor loaded; computing goes on."""
    shared = tmp_path / "shared"
    cache = opened(directory=shared, allow_pickle=True)
    cache.put("old", {1})
    shared.chmod(0o770)
    assert cache.get("old") is None
    with pytest.raises(PermissionError, match="shared"):
        cache.put("key", {1})
    assert cache.get_or_compute("key", lambda: {2}) == {2}
    assert "key" not in cache
    shared.chmod(0o700)
    assert cache.get("old") == {1}


def test_an_unknown_codec_is_computed_anew(cache: Cache) -> None:
    """An entry whose codec this version does not know is healed like a damaged one."""
    entries.write(cache._shards.path("'key'"), codecs.Encoded("future", [b"?"]), key="'key'")
    assert cache.get_or_compute("key", lambda: 1) == 1

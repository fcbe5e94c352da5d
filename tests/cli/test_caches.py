"""`interlock cache`: what it tells of caches, that it changes nothing unless told to, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import interlock
from cli.command import Command, tree


@pytest.fixture
def cache(session: interlock.Session) -> interlock.Cache:
    """A cache with a text and an array in it."""
    cache = session.cache("null dists")
    cache.put("greeting", "hello")
    cache.get_or_compute((7, "x"), lambda: np.arange(100))
    return cache


def entry_of(cache: interlock.Cache, key: object) -> Path:
    """The file of a key."""
    return next(Path(entry.path) for entry in cache.listing() if entry.note.key == key)


def test_listing_names_keys_codecs_and_authors(command: Command, cache: interlock.Cache) -> None:
    """`ls` without a name lists the caches, with one its entries; by name or by directory, as a table or JSON."""
    assert command("cache", "ls").stdout == "null dists\n"
    assert json.loads(command("cache", "ls", "--json").stdout) == ["null dists"]
    for where in ("null dists", cache.directory):
        found = json.loads(command("cache", "ls", where, "--json").stdout)
        assert {entry["key"]: entry["codec"] for entry in found} == {"'greeting'": "text", "(7, 'x')": "npy"}
    table = command("cache", "ls", "null dists").stdout.splitlines()
    assert table[0].split() == ["KEY", "CODEC", "BYTES", "COMPUTED", "IN", "USED", "BY"]
    assert len(table) == 3


def test_stats_count_what_is_there(command: Command, cache: interlock.Cache) -> None:
    """Entries and bytes are those on the disk."""
    facts = json.loads(command("cache", "stats", "null dists", "--json").stdout)
    assert (facts["entries"], facts["bytes"]) == (2, sum(entry.bytes for entry in cache.listing()))
    assert f"entries     {facts['entries']}\n" in command("cache", "stats", "null dists").stdout


def test_verify_finds_damage_and_changes_nothing(command: Command, cache: interlock.Cache) -> None:
    """A flipped bit is exit code 1 and named; nothing is removed, and no look leaves a trace."""
    before = tree(cache.session.url)
    assert command("cache", "verify", "null dists").returncode == 0
    assert tree(cache.session.url) == before
    path = entry_of(cache, "'greeting'")
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.write_bytes(raw)
    found = command("cache", "verify", "null dists")
    assert (found.returncode, found.stderr) == (1, "1 whole, 1 damaged; the next read removes those\n")
    assert str(path) in found.stdout
    assert json.loads(command("cache", "verify", "null dists", "--json").stdout)[0]["path"] == str(path)
    assert path.exists()


def test_clearing_asks_for_apply(command: Command, cache: interlock.Cache) -> None:
    """Without ``--apply`` it is counted only."""
    assert "would remove 2 entries" in command("cache", "clear", "null dists").stderr
    assert cache.stats().entries == 2
    assert "removed 2 entries" in command("cache", "clear", "null dists", "--apply").stdout
    assert cache.stats().entries == 0
    assert command("cache", "ls", "null dists").stderr.startswith("nothing in ")


def test_whatever_a_key_contains_is_printed_harmlessly(command: Command, cache: interlock.Cache) -> None:
    """Control characters in keys do not reach the terminal."""
    cache.put("\x1b[2J\n", "evil")
    assert "\x1b" not in command("cache", "ls", "null dists").stdout


def test_a_cache_that_is_not_there_is_empty(command: Command) -> None:
    """Looking makes nothing."""
    assert command("cache", "ls").stdout == "\n"
    assert "entries     0" in command("cache", "stats", "nothing").stdout
    assert command("cache", "verify", "nothing").returncode == 0
    assert command("cache", "ls", "").returncode == 0

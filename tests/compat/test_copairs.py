"""`interlock.compat.copairs`: the numbers of copairs, computed once, whoever asks, in any order and any company."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from conftest import mounted_disk
from crash.processes import Board, Log, collected, fork, wait
from interlock.compat import copairs
from interlock.compat.copairs import cache_of, get_null_dists, null_dist_cached
from interlock.inspection import survey
from patience import until
from processes import NOBODY, as_root, become_nobody, open_directory

CONFS = [(1, 1), (1, 2), (5, 20), (19, 20), (20, 20), (30, 20), (3, 700)]
SEEDS = [0, 1, 42, 8095, 2**63]
SIZE = 200


@pytest.fixture
def original() -> ModuleType:
    """The module of copairs. Not imported above: spawned processes would pay for it."""
    from copairs import compute

    return compute


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """What was computed, in the order in which it was, by this process and its children."""
    log = Log(str(tmp_path / "log"))
    monkeypatch.setattr(copairs, "_simulate", logged(log))
    yield log
    log.close()


def logged(log: Log) -> Callable[..., Any]:
    """The simulation, which notes in a log what it simulates."""
    simulate = copairs._simulate

    def simulation(*numbers: Any) -> Any:
        log.add("computed", *numbers)
        return simulate(*numbers)

    return simulation


def computed(log: Log) -> Counter[tuple[int, ...]]:
    """How often each configuration was computed."""
    return Counter((num_pos, total) for what, num_pos, total, *_ in log.entries() if what == "computed")


def entries(directory: Path) -> list[str]:
    """The files of the distributions."""
    return [file.path for file in cache_of(directory)._shards.files()]


def same(one: Any, other: Any) -> bool:
    """Whether two arrays have the same type, shape and content."""
    return one.dtype == other.dtype and np.array_equal(one, other)


# -- the numbers


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("conf", CONFS)
def test_a_distribution_is_that_of_copairs(
    original: ModuleType, tmp_path: Path, conf: tuple[int, int], seed: int
) -> None:
    """`null_dist_cached` gives the numbers of copairs to the last bit, when it computes and when it reads."""
    theirs = original.null_dist_cached(*conf, seed, SIZE, tmp_path / "theirs")
    for _ in range(2):
        assert same(null_dist_cached(*conf, seed, SIZE, tmp_path / "ours"), theirs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("conf", CONFS)
def test_a_configuration_alone_has_the_numbers_of_copairs(
    original: ModuleType, tmp_path: Path, conf: tuple[int, int], seed: int
) -> None:
    """`get_null_dists` of one configuration is that of copairs in an empty directory, in both ways to write it."""
    theirs = original.get_null_dists(np.array([conf]), SIZE, seed, tmp_path / "theirs", progress_bar=False)
    for confs in ([conf], np.array([conf], dtype=np.uint32)):
        assert same(get_null_dists(confs, SIZE, seed, tmp_path / "ours", False), theirs)


@pytest.mark.parametrize("total", [2**16 - 1, 2**16])
def test_long_rankings(original: ModuleType, tmp_path: Path, total: int) -> None:
    """Where ranks no longer fit into 16 bits, copairs rounds otherwise, and so do we."""
    assert same(null_dist_cached(150, total, 3, 5, tmp_path), original.random_ap(5, 150, total, 3))


def test_neither_order_nor_company_counts(tmp_path: Path) -> None:
    """Whatever the order, the neighbours and the state of the directory, a configuration has the same numbers."""
    orders = [CONFS, CONFS[::-1], CONFS[3:] + CONFS[:3]]
    alone = {conf: get_null_dists([conf], SIZE, 7, tmp_path / "alone", False)[0] for conf in CONFS}
    assert len({null.tobytes() for null in alone.values() if null.std()}) == 4  # in the others there is but one ranking
    for number, confs in enumerate(orders):
        for directory in (tmp_path / str(number), tmp_path / "alone"):
            null_dists = get_null_dists(confs, SIZE, 7, directory, False)
            assert all(same(null_dists[row], alone[conf]) for row, conf in enumerate(confs))


def test_all_that_decides_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """Another seed, size, configuration or version of the algorithm is another distribution in the same directory."""
    calls = [(5, 20, 1, 30), (5, 20, 2, 30), (5, 20, 1, 31), (6, 20, 1, 30), (5, 21, 1, 30)]
    found = [null_dist_cached(*call, tmp_path) for call in calls * 2]
    assert [len(null) for null in found] == [call[3] for call in calls * 2]
    assert len({null.tobytes() for null in found}) == len(calls)
    monkeypatch.setattr(copairs, "_VERSION", copairs._VERSION + 1)
    null_dist_cached(*calls[0], tmp_path)
    assert [tuple(entry) for entry in log.entries()] == [("computed", *call) for call in [*calls, calls[0]]]


def test_all_of_copairs_can_use_it(original: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in the place of the original function, it serves copairs' own mean average precision, with equal results."""
    import pandas
    from copairs.map import mean_average_precision

    scores = pandas.DataFrame({"average_precision": [0.9, 0.8, 0.2, 0.4], "normalized_average_precision": 0.0})
    scores = scores.assign(gene=["a", "a", "b", "b"], n_pos_pairs=3, n_total_pairs=20)
    ways = [original.get_null_dists, get_null_dists]
    found = []
    for number, way in enumerate(ways):
        monkeypatch.setattr(original, "get_null_dists", way)
        options = {"null_size": 500, "threshold": 0.05, "seed": 1, "progress_bar": False}
        found.append(mean_average_precision(scores, ["gene"], cache_dir=tmp_path / str(number), **options))
    pandas.testing.assert_frame_equal(*found)
    assert entries(tmp_path / "1")


# -- what the tests of copairs check


def test_values_and_hits(tmp_path: Path, log: Log) -> None:
    """Numbers from 0 to 1, as many as asked for; the second time they are read, also by keyword and from a string."""
    first = null_dist_cached(num_pos=5, total=20, seed=42, null_size=100, cache_dir=tmp_path)
    assert first.shape == (100,)
    assert ((first >= 0) & (first <= 1)).all()
    assert same(null_dist_cached(num_pos=5, total=20, seed=42, null_size=100, cache_dir=str(tmp_path)), first)
    assert len(log.entries()) == len(entries(tmp_path)) == 1


def test_files_of_copairs_are_left_alone(tmp_path: Path) -> None:
    """Garbage under the name that copairs would use is neither believed nor touched."""
    planted = tmp_path / "n20_k5.npy"
    planted.write_bytes(b"not a valid npy file")
    null = null_dist_cached(num_pos=5, total=20, seed=42, null_size=100, cache_dir=tmp_path)
    assert ((null >= 0) & (null <= 1)).all()
    assert planted.read_bytes() == b"not a valid npy file"


# -- arguments


def test_rows_of_equal_configurations_cost_one(tmp_path: Path, log: Log) -> None:
    """Equal configurations are computed once and fill all of their rows."""
    null_dists = get_null_dists([(5, 20), (6, 20), (5, 20), (5, 20)], SIZE, 1, tmp_path, False)
    assert computed(log) == {(5, 20): 1, (6, 20): 1}
    assert same(null_dists[0], null_dists[2])
    assert same(null_dists[0], null_dists[3])
    assert not same(null_dists[0], null_dists[1])


def test_without_a_seed_nothing_is_stored(tmp_path: Path) -> None:
    """`seed=None` gives other numbers each time and leaves no file."""
    for ask in (
        lambda: null_dist_cached(5, 200, None, SIZE, tmp_path),
        lambda: get_null_dists([(5, 200)], SIZE, None, tmp_path, False),
    ):
        assert not same(ask(), ask())
    assert os.listdir(tmp_path) == []


def test_results_are_the_callers_own(tmp_path: Path) -> None:
    """Sorting in place, as copairs does, changes neither the file nor what others get."""
    for ask in (
        lambda: null_dist_cached(5, 20, 1, SIZE, tmp_path),
        lambda: get_null_dists([(5, 20)], SIZE, 1, tmp_path, False),
    ):
        before = ask().copy()
        ask().sort()
        assert same(ask(), before)


def test_no_configuration_at_all(tmp_path: Path) -> None:
    """No configurations make no rows."""
    assert get_null_dists(np.empty((0, 2), int), SIZE, 1, tmp_path, False).shape == (0, SIZE)


def test_what_is_not_a_whole_number_is_refused(tmp_path: Path) -> None:
    """A configuration of fractions is an error, before anything is computed or stored."""
    with pytest.raises(TypeError, match="integer"):
        get_null_dists(np.array([[2.5, 20.0]]), SIZE, 1, tmp_path, False)
    assert os.listdir(tmp_path) == []


def test_the_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `cache_dir` it is ``.copairs`` in the home directory, as in copairs; everything lies in two folders."""
    monkeypatch.setenv("HOME", str(tmp_path))
    get_null_dists([(5, 20)], SIZE, 1, progress_bar=False)
    assert sorted(os.listdir(tmp_path / ".copairs")) == [".interlock", "null_dists"]


def test_the_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is shown by default, not shown if unwanted, and not missed where tqdm is missing."""
    get_null_dists([(5, 20), (6, 20)], SIZE, 1, tmp_path, progress_bar=False)
    assert capsys.readouterr() == ("", "")
    get_null_dists([(5, 20), (6, 20)], SIZE, 1, tmp_path)
    assert "0/2" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert get_null_dists([(5, 20), (6, 20)], SIZE, 1, tmp_path).shape == (2, SIZE)


def test_each_call_goes_its_own_way(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same configurations take them in different orders, so as not to wait at every one."""
    monkeypatch.setattr(copairs, "_processors", lambda: 1)
    confs = [(num_pos, 40) for num_pos in range(1, 31)]
    for directory in ("one", "other"):
        get_null_dists(confs, 2, 1, tmp_path / directory, False)
    order = [(num_pos, total) for _, num_pos, total, *_ in log.entries()]
    assert sorted(order[:30]) == sorted(order[30:]) == confs
    assert order[:30] != order[30:]


# -- many processes


def race(directory: str, rounds: int, together: Any, path: str) -> None:
    """One of many that ask for the same distribution at the same moment, in a new directory each round."""
    log = Log(path)
    copairs._simulate = logged(log)
    for number in range(rounds):
        together.wait(60)
        null = null_dist_cached(5, 100 + number, 42, 1000, f"{directory}/{number}")
        log.add("has", 100 + number, sha256(null).hexdigest())


@pytest.mark.parametrize(("workers", "method"), [(16, "fork"), (32, "fork"), (16, "spawn")])
def test_workers_that_race_for_a_key_compute_it_once(tmp_path: Path, workers: int, method: str) -> None:
    """The stress test of copairs: in each of 20 rounds one worker computes, and all have the same right numbers."""
    context, rounds, path = multiprocessing.get_context(method), 20, str(tmp_path / "log")
    together = context.Barrier(workers)
    log = Log(path)
    racers = [
        context.Process(target=race, args=(str(tmp_path), rounds, together, path), daemon=True) for _ in range(workers)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(90)
    assert [racer.exitcode for racer in racers] == [0] * workers
    assert computed(log) == {(5, 100 + number): 1 for number in range(rounds)}
    right = {total: sha256(copairs._simulate(5, total, 42, 1000)).hexdigest() for total in range(100, 100 + rounds)}
    has = Counter(tuple(entry[1:]) for entry in log.entries() if entry[0] == "has")
    assert has == dict.fromkeys(right.items(), workers)
    log.close()


def test_workers_share_many_configurations(tmp_path: Path, log: Log) -> None:
    """Eight workers want all configurations, each in its own order: each is computed once among all."""
    confs = [(num_pos, 60) for num_pos in range(1, 41)]
    right = get_null_dists(confs, SIZE, 5, tmp_path / "right", False)
    before = len(log.entries())
    ready, go = Board(8), Board(1)

    def ask(number: int) -> None:
        order = np.random.default_rng(number).permutation(len(confs))
        ready[number] = 1
        until(lambda: go[0])
        if number % 2:
            found = get_null_dists([confs[place] for place in order], SIZE, 5, tmp_path / "shared", False)
        else:
            seed = int(np.random.default_rng(5).integers(8096))
            found = np.array([null_dist_cached(*confs[p], seed, SIZE, tmp_path / "shared") for p in order])
        assert same(found, right[order])

    with collected():
        pids = [fork(lambda number=number: ask(number)) for number in range(8)]
        until(lambda: all(ready[number] for number in range(8)))
        go[0] = 1
        assert [wait(pid) for pid in pids] == [0] * 8
    assert Counter(tuple(entry[1:3]) for entry in log.entries()[before:]) == dict.fromkeys(confs, 1)


def test_the_others_go_on_when_the_one_that_computes_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The worker that computes dies by SIGKILL: of those who wait one computes, once, and all have the numbers."""
    begun = Board(1)
    right = copairs._simulate(5, 100, 42, SIZE)

    def die_slowly(*_: int) -> None:
        begun[0] = 1
        time.sleep(60)

    def victim() -> None:
        monkeypatch.setattr(copairs, "_simulate", die_slowly)
        null_dist_cached(5, 100, 42, SIZE, tmp_path / "shared")

    def ask() -> None:
        assert same(null_dist_cached(5, 100, 42, SIZE, tmp_path / "shared"), right)

    with collected():
        dead = fork(victim)
        until(lambda: begun[0])
        pids = [fork(ask) for _ in range(6)]
        store = cache_of(tmp_path / "shared").session.store
        until(lambda: sum(len(status.waiters) for status in survey(store)) == len(pids))
        os.kill(dead, signal.SIGKILL)
        assert wait(dead) == -signal.SIGKILL
        assert [wait(pid) for pid in pids] == [0] * 6
    assert len(log.entries()) == 2  # for `right`, and by the one that took over


# -- what may befall the files


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def garble(file: Path) -> None:
    file.write_bytes(b"not a null distribution")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def swap(file: Path) -> None:
    """Put the file of another distribution in its place."""
    null_dist_cached(6, 20, 42, SIZE, file.parents[2])
    (other,) = set(entries(file.parents[2])) - {str(file)}
    os.replace(other, file)


@pytest.mark.parametrize("damage", [cut, flip, garble, empty, swap])
def test_a_damaged_file_is_healed(
    tmp_path: Path, log: Log, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """A file that is not what was written is told of, computed anew, and whole again; its numbers reach nobody."""
    right = null_dist_cached(5, 20, 42, SIZE, tmp_path)
    (path,) = entries(tmp_path)
    damage(Path(path))
    before = computed(log)[5, 20]
    for _ in range(2):
        assert same(null_dist_cached(5, 20, 42, SIZE, tmp_path), right)
    assert computed(log)[5, 20] == before + 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "damaged" in caplog.text
    assert cache_of(tmp_path).verify() == []


@as_root
def test_a_directory_of_a_group(log: Log) -> None:
    """In a setgid directory each user of the group reads what another has computed, and adds to it."""

    def work(user: int, confs: list[tuple[int, int]]) -> None:
        os.umask(0o077)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(user)
        get_null_dists(confs, SIZE, 1, shared, False)

    with open_directory() as place, collected():
        shared = place / "shared"
        shared.mkdir()
        os.chown(shared, 0, NOBODY)
        os.chmod(shared, 0o2770)
        for user, confs in ((4001, [(5, 20)]), (4002, [(5, 20), (6, 20)]), (4001, [(5, 20), (6, 20)])):
            assert wait(fork(lambda user=user, confs=confs: work(user, confs))) == 0
        assert {(os.stat(file).st_mode & 0o777, os.stat(file).st_gid) for file in entries(shared)} == {(0o660, NOBODY)}
    assert computed(log) == {(5, 20): 1, (6, 20): 1}


@as_root
def test_a_directory_of_somebody_else(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """Who may only read a directory reads what there is; who may not even that gets the numbers too, and a warning."""

    def work(confs: list[tuple[int, int]], warned: bool) -> None:
        become_nobody()
        assert same(get_null_dists(confs, SIZE, 1, shared, False), right[: len(confs)])
        assert {record.levelname for record in caplog.records} == ({"WARNING"} if warned else set())
        assert ("permission denied" in caplog.text.lower()) == warned

    with open_directory() as place, collected():
        shared, confs = place / "shared", [(5, 20), (6, 20)]
        right = get_null_dists(confs, SIZE, 1, place / "right", False)
        get_null_dists(confs[:1], SIZE, 1, shared, False)
        before = computed(log)
        for mode, asked, more in ((0o755, 1, 0), (0o755, 2, 1), (0o700, 2, 2)):
            for folder in (shared, *shared.rglob("*")):
                os.chmod(folder, mode)
            assert wait(fork(lambda asked=asked, more=more: work(confs[:asked], warned=more > 0))) == 0
            assert (computed(log) - before).total() == more
            before = computed(log)


def test_a_full_disk(tmp_path: Path, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing more can be stored, everybody gets the numbers all the same, and a warning; nothing is left."""
    right = get_null_dists([(5, 20), (6, 20)], 20_000, 1, tmp_path / "right", False)
    with mounted_disk(tmp_path / "disk", "64k") as disk:
        assert same(get_null_dists([(5, 20), (6, 20)], 20_000, 1, disk, False), right)
        assert {record.levelname for record in caplog.records} == {"WARNING"}
        assert "could not store" in caplog.text
        assert entries(disk) == list(disk.rglob("*.tmp")) == []
    assert computed(log) == {(5, 20): 2, (6, 20): 2}


def test_no_directory_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file where the directory should be: numbers, and a warning."""
    (tmp_path / "file").write_text("")
    null = null_dist_cached(5, 20, 42, SIZE, tmp_path / "file" / "cache")
    assert same(null, null_dist_cached(5, 20, 42, SIZE, tmp_path / "directory"))
    assert {record.levelname for record in caplog.records} == {"WARNING"}

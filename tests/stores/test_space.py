"""The space: its modes, its creation by several processes at once, and the primitive it is pinned to."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path

import pytest

import interlock
from crash.processes import Board, collected, fork, wait
from interlock.stores._kernel_lock import PRIMITIVES
from interlock.stores._space import Space, file_name


def modes(root: Path) -> tuple[set[int], set[int]]:
    """The modes of all directories and of all files below a directory, itself included."""
    folders, files = set(), set()
    for folder, _, names in os.walk(root):
        folders.add(stat.S_IMODE(os.stat(folder).st_mode))
        files |= {stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) for name in names}
    return folders, files


def use(path: Path) -> None:
    """Use the space so that every kind of file comes to be."""
    with interlock.connect(f"file://{path}") as session:
        with session.lock("name"):
            session.event("flag").set()
        session.store.audit("something was forced")
        session.store.retire("name", interlock.Lock.machine)
        with session.lock("name"):
            folders, files = modes(path)
    assert (folders, files) == modes(path), "an open session differs"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_space_is_its_users_own(tmp_path: Path, umask: int) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""
    before = os.umask(umask)
    try:
        use(tmp_path / "space")
    finally:
        os.umask(before)
    assert modes(tmp_path / "space") == ({0o700}, {0o600})


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_setgid_directory_makes_it_the_groups(tmp_path: Path, umask: int) -> None:
    """In a setgid directory everything is the group's: 2770 and 0660, whatever the umask."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2770)
    before = os.umask(umask)
    try:
        use(shared / "space")
        use(shared)
    finally:
        os.umask(before)
    assert modes(shared / "space") == ({0o2770}, {0o660})
    assert modes(shared / "records") == ({0o2770}, {0o660})


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    """A directory that was there keeps the mode its owner gave it; what is made inside is private."""
    path = tmp_path / "space"
    path.mkdir()
    path.chmod(0o755)
    use(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert stat.S_IMODE((path / "records").stat().st_mode) == 0o700


def test_two_processes_create_it_at_the_same_time(tmp_path: Path) -> None:
    """Two hundred times two processes make a space, its parents and a lock at once; both succeed, neither overlaps."""
    rounds, board = 200, Board(8)

    def meet(place: int, number: int) -> None:
        board[place] = number + 1
        while board[1 - place] < number + 1:
            os.sched_yield()

    def create(place: int) -> None:
        for number in range(rounds):
            meet(place, number)
            with interlock.connect(f"file://{tmp_path}/{number}/deep/space") as session, session.lock("first") as grant:
                board[2 + place] += grant.token
                board[4] += 1
                assert board[4] == 1
                board[4] -= 1

    with collected():
        for pid in [fork(lambda place=place: create(place)) for place in (0, 1)]:
            assert wait(pid, 60) == 0
    assert board[2] + board[3] == rounds * (1 + 2)


def test_the_first_choice_of_a_primitive_is_pinned(tmp_path: Path) -> None:
    """A second opener with another primitive is refused, because the two would not exclude each other."""
    path = str(tmp_path / "space")
    Space(path, "flock", create=True)
    assert Space(path, None, create=True).primitive.name == "flock"
    assert Space(path, "flock", create=False).primitive.name == "flock"
    with pytest.raises(interlock.Mismatch, match="pinned to flock"):
        Space(path, "ofd", create=True)


def test_simultaneous_choices_agree_on_one(tmp_path: Path) -> None:
    """Of two processes that choose differently at the same time exactly one gets its wish."""
    board, names = Board(4), sorted(PRIMITIVES)[:2]

    def choose(place: int, number: int) -> None:
        board[place] = 1
        while not board[1 - place]:
            os.sched_yield()
        try:
            Space(f"{tmp_path}/{number}", names[place], create=True)
        except interlock.Mismatch:
            return
        board[2 + place] += 1

    with collected():
        for number in range(50):
            board[0] = board[1] = 0
            for pid in [fork(lambda place=place, number=number: choose(place, number)) for place in (0, 1)]:
                assert wait(pid) == 0
            assert board[2] + board[3] == number + 1


@pytest.mark.parametrize(
    "settings",
    [b"", b"{", b"[]", b"null", b'{"schema":2,"primitive":"ofd"}', b'{"primitive":"ofd"}', b"\xff\xfe", b"[" * 5000],
)
def test_settings_that_cannot_be_read_close_the_space(tmp_path: Path, settings: bytes) -> None:
    """Damaged or newer settings are refused by name and not replaced; refusing leaves no descriptor open."""
    path = tmp_path / "space"
    use(path)
    (path / "settings.json").write_bytes(settings)
    gc.collect()  # what earlier tests forgot is not to be counted
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(interlock.RecordInvalid, match=r"settings\.json"):
            Space(str(path), None, create=True)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert (path / "settings.json").read_bytes() == settings


def test_a_primitive_this_system_lacks_is_refused(tmp_path: Path) -> None:
    """A space pinned by another system to locks that do not exist here is not used with other locks."""
    path = tmp_path / "space"
    use(path)
    (path / "settings.json").write_text('{"schema": 1, "primitive": "msvcrt"}\n')
    with pytest.raises(interlock.Unavailable, match="pinned to msvcrt"):
        Space(str(path), None, create=True)


def test_file_names_tell_names_apart() -> None:
    """Five thousand names, among them such as differ in case, slashes or surrogates only, have files of their own."""
    names = {f"{word}{number}" for number in range(1000) for word in ("a", "A", "a/", "ä", "\ud800")}
    names |= {".", "..", "/", "../a", "a/../a", "a\nb", "a b", "a_b", "a~b", " ", "\x7f", "💾", "a" * 1000, "a" * 999}
    names |= {"\ud83d\ude00", "\U0001f600"}
    files = {file_name(name) for name in names}
    assert len({file.lower() for file in files}) == len(names)
    for file in files:
        assert len(file) <= 90
        assert not file.startswith(".")
        assert file.isascii()
        assert not set(file) & set('/\\:*?"<>|\0\n ')

"""`atomic_write`: the whole new file or the untouched old one, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import sys
from pathlib import Path
from types import FrameType

import pytest

from interlock.files import atomic, atomic_write
from processes import NOBODY, as_root, become_nobody, kill, open_directory, run, start

SIZE = 256 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with old content, alone in its directory."""
    path = tmp_path / "data.txt"
    path.write_text("old")
    return path


def untouched(path: Path) -> bool:
    """Whether the file has its old content and its directory nothing else."""
    return path.read_text() == "old" and os.listdir(path.parent) == [path.name]


# -- what a block writes


def test_replaces_when_the_block_ends(path: Path) -> None:
    """Readers see the old content until the block ends, and the new one afterwards."""
    with atomic_write(path) as file:
        file.write("neü")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "neü".encode()
    assert os.listdir(path.parent) == [path.name]


def test_writes_bytes_and_encodings(tmp_path: Path) -> None:
    """Mode, encoding and newline mean what they mean for open()."""
    with atomic_write(tmp_path / "bytes", "wb") as file:
        file.write(b"\x00\xff")
    with atomic_write(os.fspath(tmp_path / "text"), encoding="utf-16-le", newline="\r\n") as file:
        file.write("a\n")
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "text").read_bytes() == "a\r\n".encode("utf-16-le")


@pytest.mark.parametrize("mode", ["", "r", "a", "w+", "r+b", "bw", "wx"])
def test_refuses_other_modes(path: Path, mode: str) -> None:
    """A mode that does not write a whole new file is refused at the call."""
    with pytest.raises(ValueError, match="mode is one of w, wb, x, xb"):
        atomic_write(path, mode)
    assert untouched(path)


def test_block_may_close_its_file(path: Path) -> None:
    """Libraries that close what they were given do not lose the content."""
    with atomic_write(path, "wb") as file:
        file.write(b"new")
        file.close()
    assert path.read_bytes() == b"new"


def test_exclusive_mode_refuses_what_exists(path: Path) -> None:
    """Mode x refuses a file, and even a link that points nowhere, before the block runs."""
    link = path.parent / "link"
    link.symlink_to("nowhere")
    for present in (path, link):
        with pytest.raises(FileExistsError, match=present.name), atomic_write(present, "x"):
            pytest.fail("the block ran")
    assert path.read_text() == "old"
    assert sorted(os.listdir(path.parent)) == [path.name, "link"]


def test_exclusive_mode_refuses_what_appears_meanwhile(tmp_path: Path) -> None:
    """Of two exclusive writers the first to end wins, and the other is told."""
    path = tmp_path / "new"

    def write_twice() -> None:
        with atomic_write(path, "x") as second:
            second.write("second")
            with atomic_write(path, "xb") as first:
                first.write(b"first")

    with pytest.raises(FileExistsError, match="new"):
        write_twice()
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["new"]


# -- which file is replaced, and what it keeps


def test_replaces_what_a_symbolic_link_points_to(tmp_path: Path) -> None:
    """The link stays a link; its target, in another directory, is replaced, or created if it dangles."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/real")
    for content in ("created", "replaced"):
        with atomic_write(tmp_path / "link") as file:
            file.write(content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "real").read_text() == content
    assert os.listdir(tmp_path / "there") == ["real"]


def test_parent_after_a_linked_directory(tmp_path: Path) -> None:
    """A path through a linked directory and back up means what it means to the kernel."""
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/deep")
    with atomic_write(f"{tmp_path}/link/../file", "x") as file:
        file.write("new")
    assert (tmp_path / "far" / "file").read_text() == "new"


def test_relative_path_outlives_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the directory in which the block began."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with atomic_write("file") as file:
        file.write("new")
        os.chdir("elsewhere")
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755])
def test_keeps_the_mode(path: Path, mode: int) -> None:
    """A replaced file has the mode it had."""
    path.chmod(mode)
    with atomic_write(path) as file:
        file.write("new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_replacement_is_private_until_it_is_whole(path: Path) -> None:
    """The temporary file of a private file is never readable for others."""
    path.chmod(0o600)
    with atomic_write(path):
        (temporary,) = path.parent.glob(f".{path.name}.{os.getpid()}.*.tmp")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


def test_new_file_obeys_the_umask(tmp_path: Path) -> None:
    """A new file has the mode that open() would give it."""
    umask = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "new"):
            pass
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


@as_root
def test_keeps_the_owner(path: Path) -> None:
    """A file that root replaces still belongs to its user and group, set-user-id included."""
    os.chown(path, NOBODY, NOBODY - 1)
    path.chmod(0o4750)
    with atomic_write(path):
        pass
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, NOBODY - 1, 0o4750)


@as_root
def test_does_not_take_over_set_user_id() -> None:
    """A user who may not give files away replaces root's program without its set-user-id bit."""

    def child(path: Path) -> None:
        become_nobody()
        with atomic_write(path):
            pass

    with open_directory() as directory:
        path = directory / "program"
        path.touch()
        path.chmod(0o4755)
        run(child, path)
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (NOBODY, 0o755)


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127 + "n", os.fsdecode(b"\xff\xfe"), "a b\n'\"$"])
def test_accepts_any_name(tmp_path: Path, name: str) -> None:
    """Names as long as the system allows, and names that are no text, have temporary files too."""
    with atomic_write(tmp_path / name) as file:
        file.write("new")
    assert (tmp_path / name).read_text() == "new"
    assert os.listdir(tmp_path) == [name]


def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    """Directories, pipes, devices, and paths of directories are refused before the block runs."""
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    for place, number in ((tmp_path, errno.EISDIR), (f"{tmp_path}/new/", errno.EISDIR),
                          (tmp_path / "pipe", errno.EINVAL), ("/dev/null", errno.EINVAL)):  # fmt: skip
        with pytest.raises(OSError, match=str(place)) as caught, atomic_write(place):
            pytest.fail("the block ran")
        assert caught.value.errno == number
    assert sorted(os.listdir(tmp_path)) == before


def test_missing_directory_is_named_by_the_file(tmp_path: Path) -> None:
    """The error speaks of the file that was asked for, and no directory is made."""
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "no" / "file"):
        pytest.fail("the block ran")
    assert caught.value.filename == str(tmp_path / "no" / "file")
    assert os.listdir(tmp_path) == []


# -- what remains after an error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_error_in_the_block_leaves_nothing(path: Path, error: type[BaseException]) -> None:
    """Whatever the block raises comes out unchanged; the file is as it was."""
    with pytest.raises(error), atomic_write(path):
        raise error
    assert untouched(path)


def test_bad_encoding_leaves_nothing(path: Path) -> None:
    """What open() refuses, before the block runs, leaves nothing either."""
    with pytest.raises(LookupError), atomic_write(path, encoding="no such encoding"):
        pytest.fail("the block ran")
    with pytest.raises(ValueError, match="binary"), atomic_write(path, "wb", encoding="utf-8"):
        pytest.fail("the block ran")
    assert untouched(path)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_anywhere_leaves_nothing(path: Path) -> None:
    """Ctrl-C at each instant at which Python looks for signals leaves the old content or the new, and nothing else."""
    ours = (atomic.__file__, contextlib.__file__)

    def interrupt(point: int) -> bool:
        passed = 0

        def profile(frame: FrameType, event: str, _: object) -> None:
            nonlocal passed
            passed += event in ("c_call", "c_return") and frame.f_code.co_filename in ours
            if passed == point:
                sys.setprofile(None)
                raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            with atomic_write(path) as file:
                file.write("new")
        except KeyboardInterrupt:
            return True
        finally:
            sys.setprofile(None)
        return False

    point, seen = 1, set()
    while interrupt(point):
        seen.add(path.read_text())
        assert os.listdir(path.parent) == [path.name], point
        path.write_text("old")
        point += 1
    assert seen == {"old", "new"}


@pytest.mark.parametrize("call", ["open", "fstat", "fsync", "replace"])
def test_failing_system_call_leaves_nothing(path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of a replacement may fail; the file is as it was, and the error names it."""

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, call, fail)
        with pytest.raises(OSError, match=r"data\.txt"), atomic_write(path) as file:
            file.write("new")
    assert untouched(path)


def test_syncs_file_then_renames_then_syncs_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is on the disk before it has the name, and the name before the block is over."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def log_fsync(fd: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"{os.fstat(fd).st_size} bytes")
        fsync(fd)

    def log_replace(source: str, target: str) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(os, "replace", log_replace)
    with atomic_write(path) as file:
        file.write("new")
    assert steps == ["3 bytes", "rename", "directory"]
    with atomic_write(path, sync=False):
        steps.clear()
    assert steps == ["rename"]


def test_full_disk(small_disk: Path) -> None:
    """A disk that fills up raises an error that names the file, which is as it was."""
    path = small_disk / "data.txt"
    path.write_text("old")
    with pytest.raises(OSError, match=r"data\.txt") as caught, atomic_write(path, "wb") as file:
        file.write(bytes(SIZE * 2))
    assert caught.value.errno == errno.ENOSPC
    assert untouched(path)


def test_limit_of_file_size(path: Path) -> None:
    """The same where the system, not the disk, sets the limit, and only the last, buffered bytes pass it."""

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        with pytest.raises(OSError, match=r"data\.txt"), atomic_write(path) as file:
            file.write("more than ten characters")
        assert untouched(path)

    run(child)


# -- readers beside writers that are killed


def overwrite(path: Path, letter: bytes) -> None:
    while True:
        with atomic_write(path, "wb", sync=False) as file:
            file.write(letter * SIZE)


def overwrite_in_place(path: Path, letter: bytes) -> None:
    while True:
        path.write_bytes(letter * SIZE)


def letter_in(path: Path) -> bytes:
    """Which writer wrote the file, all of it."""
    content = path.read_bytes()
    assert len(content) == SIZE
    assert content == content[:1] * SIZE
    return content[:1]


def test_readers_never_see_part_of_a_file(tmp_path: Path) -> None:
    """While writers write and are killed, every read finds one writer's whole content."""
    path = tmp_path / "data"
    path.write_bytes(b"-" * SIZE)
    for number in range(20):
        letter = bytes([ord("a") + number])
        writers = [start(overwrite, path, letter), start(overwrite, path, letter.upper())]
        while letter_in(path).lower() != letter:
            pass
        for writer in writers:
            kill(writer)
            letter_in(path)
    assert all(name == "data" or name.endswith(".tmp") for name in os.listdir(tmp_path))


def test_the_check_of_readers_can_fail(tmp_path: Path) -> None:
    """Control: the same check finds the half-written files of a writer that truncates and writes."""
    path = tmp_path / "data"
    path.write_bytes(b"-" * SIZE)
    writer = start(overwrite_in_place, path, b"a")
    with pytest.raises(AssertionError):
        all(iter(lambda: letter_in(path), b""))
    kill(writer)

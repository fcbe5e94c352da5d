"""Entries: a file is a whole entry or told to be damaged, and writing one leaves nothing else."""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import socket
import stat
from pathlib import Path
from typing import Any

import numpy
import pandas
import pyarrow
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock import codecs, entries
from processes import run

VALUES: dict[str, Any] = {
    "bytes": b"x" * 50,
    "text": "some text",
    "json": [1, {"a": (2.5, None)}],
    "npy": numpy.arange(12.0),
    "scalar": numpy.float64(0.1),
    "npz": {"a": numpy.arange(3), "b": numpy.zeros((2, 2))},
    "arrow": pyarrow.table({"a": [1, 2]}),
    "frame": pandas.DataFrame({"a": [1, 2]}),
    "series": pandas.Series([1.5]),
    "tensor": torch.arange(3),
    "tensors": {"a": torch.arange(3)},
}


def write(path: Path, value: Any, key: str = "'key'") -> entries.Note:
    return entries.write(str(path), codecs.encode(value), key=key, by="ada@node7", seconds=1.5)[0]


def read(path: Path) -> Any:
    entry = entries.read(str(path))
    return codecs.decode(entry.note.codec, entry.payload)


def large() -> numpy.ndarray:
    return numpy.arange(entries.MAPPED_FROM // 8 + 100.0)


@pytest.fixture(params=VALUES)
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An entry of each codec."""
    write(tmp_path / "entry", VALUES[request.param])
    return tmp_path / "entry"


def test_an_entry_says_what_it_is(tmp_path: Path) -> None:
    """Key, codec, writer, time and cost come back; the description is a line of JSON that a person can read."""
    write(tmp_path / "entry", b"value", key="'a key'")
    note = entries.read(str(tmp_path / "entry")).note
    assert note[:2] == ("'a key'", "bytes")
    assert (note.by, note.seconds, note.length) == ("ada@node7", 1.5, 5)
    line = (tmp_path / "entry").read_bytes().splitlines()[-2]
    assert json.loads(line) == note._asdict()
    assert entries.look(str(tmp_path / "entry"))[0] == note


def test_other_programs_read_the_value(tmp_path: Path) -> None:
    """`numpy.load` reads an array and an archive from the entry itself."""
    write(tmp_path / "array", VALUES["npy"])
    write(tmp_path / "archive", VALUES["npz"])
    assert numpy.array_equal(numpy.load(tmp_path / "array"), VALUES["npy"])
    with numpy.load(tmp_path / "archive") as archive:
        assert numpy.array_equal(archive["b"], VALUES["npz"]["b"])


def test_a_large_array_is_mapped_and_aligned(tmp_path: Path) -> None:
    """A large array lies in a mapping of the file, at a multiple of 64 bytes, read-only."""
    write(tmp_path / "entry", large())
    entry = entries.read(str(tmp_path / "entry"))
    assert isinstance(entry.payload, mmap.mmap)
    array = codecs.decode("npy", entry.payload)
    assert array.ctypes.data % 64 == 0
    assert not array.flags.writeable
    assert numpy.array_equal(array, large())


def test_more_arrays_than_descriptors(tmp_path: Path) -> None:
    """A process may hold more large arrays than it has descriptors; the rest are read instead of mapped."""
    write(tmp_path / "entry", large())

    def hold_many() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        held = [read(tmp_path / "entry") for _ in range(150)]
        assert all(array[-1] == large()[-1] for array in held)

    run(hold_many)


def test_a_replaced_or_removed_entry_stays_readable(tmp_path: Path) -> None:
    """Whoever has an array mapped goes on reading it after the entry was replaced and removed."""
    write(tmp_path / "entry", large())
    held = read(tmp_path / "entry")
    write(tmp_path / "entry", large() + 1)
    assert numpy.array_equal(read(tmp_path / "entry"), large() + 1)
    os.unlink(tmp_path / "entry")
    assert numpy.array_equal(held, large())


def test_files_of_one_moment_are_told_apart(tmp_path: Path) -> None:
    """Entries written within one tick of the file system's clock have stamps of their own, inodes reused or not."""
    stamps = {entries.write(str(tmp_path / "entry"), codecs.encode(b"x"), key="k")[1] for _ in range(200)}
    assert len(stamps) == 200


def test_any_flipped_bit_is_found(whole: Path) -> None:
    """A single bit of an entry, flipped anywhere, makes it damaged: no wrong data, whatever the codec."""
    content = whole.read_bytes()
    for bit in range(0, len(content) * 8, max(1, len(content) * 8 // 150) | 1):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        whole.write_bytes(changed)
        with pytest.raises(entries.Damage):
            entries.read(str(whole), afresh=True)
    whole.write_bytes(content)
    entries.read(str(whole), afresh=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_other_content_is_found(tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere, extended, overwritten in a place, or of other content altogether: damaged."""
    path = tmp_path / "entry"
    write(path, b"a value")
    content = path.read_bytes()
    place = data.draw(st.integers(0, 160))
    other = data.draw(
        st.sampled_from(
            [content[:place], content[place:], content + b"\0", content * 2, b"", content[:place] + b"\xff"]
        )
        | st.binary(min_size=1, max_size=600)
        | st.binary(min_size=1, max_size=40).map(lambda piece: content[:place] + piece + content[place + len(piece) :])
    )
    path.write_bytes(other)
    if other != content:
        with pytest.raises(entries.Damage):
            entries.read(str(path))


def test_the_checksum_is_checked_once_per_file(tmp_path: Path) -> None:
    """A file this process has checked is not checked again, unless asked; a new file of that name is."""
    path = tmp_path / "entry"
    write(path, b"value")
    state = path.stat()
    path.write_bytes(path.read_bytes().replace(b"value", b"wrong"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as if the disk had changed it
    assert read(path) == b"wrong"
    with pytest.raises(entries.Damage, match="checksum"):
        entries.read(str(path), afresh=True)
    os.utime(path)
    with pytest.raises(entries.Damage, match="checksum"):
        entries.read(str(path))


def plant_link(path: Path) -> None:
    write(path.parent / "target", b"value")
    path.symlink_to("target")


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("plant", [plant_link, plant_socket, os.mkfifo], ids=["link", "socket", "pipe"])
def test_what_is_not_a_file_is_damage(tmp_path: Path, plant: Any) -> None:
    """A link is not followed, a pipe is not waited for, a socket is no entry."""
    plant(tmp_path / "entry")
    with pytest.raises(entries.Damage):
        entries.read(str(tmp_path / "entry"))


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    """A directory in the place of an entry is neither read, nor replaced, nor removed; the error names it."""
    (tmp_path / "entry").mkdir()
    with pytest.raises(IsADirectoryError, match="entry"):
        entries.read(str(tmp_path / "entry"))
    with pytest.raises(OSError, match="entry") as caught:
        write(tmp_path / "entry", b"value")
    assert caught.value.filename == str(tmp_path / "entry")
    assert os.listdir(tmp_path) == ["entry"]


CALLS = ("open", "stat", "fstat", "writev", "utime", "close", "replace")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [OSError(errno.EDQUOT, "quota"), KeyboardInterrupt()], ids=["OSError", "interrupt"])
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    """Whichever call fails or is interrupted, the old entry stays, no temporary file does, and no descriptor."""
    path = tmp_path / "entry"
    write(path, b"old")
    descriptors = len(os.listdir("/proc/self/fd"))
    real = getattr(os, call)

    def fail(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(os, call, real)
        if call in ("open", "close", "writev"):  # done, and interrupted on the way back
            done = real(*args, **options)
            if call == "open":
                real_close(done)
        raise error

    real_close = os.close
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)) as caught:
        write(path, b"new")
    assert os.listdir(tmp_path) == ["entry"]
    assert read(path) == b"old"
    assert len(os.listdir("/proc/self/fd")) == descriptors
    if isinstance(error, OSError):
        assert caught.value.filename == str(path)  # type: ignore[attr-defined]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that writes less than it is given writes the rest later."""
    real = os.writev

    def little(fd: int, buffers: Any) -> int:
        return real(fd, [memoryview(buffers[0])[:7]])

    monkeypatch.setattr(os, "writev", little)
    write(tmp_path / "entry", VALUES["npz"])
    assert numpy.array_equal(read(tmp_path / "entry")["b"], VALUES["npz"]["b"])


def test_a_stale_handle_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dropped a replaced file while it was read is asked again; only so often."""
    write(tmp_path / "entry", b"value")
    real, left = os.pread, [2]

    def stale(*args: Any) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "stale")
        return real(*args)

    monkeypatch.setattr(os, "pread", stale)
    assert read(tmp_path / "entry") == b"value"
    left[0] = 100
    with pytest.raises(OSError, match="stale"):
        read(tmp_path / "entry")


def modes(root: Path) -> set[tuple[bool, int]]:
    """Of everything below a directory: whether it is a directory, and its mode."""
    return {(item.is_dir(), stat.S_IMODE(item.stat().st_mode)) for item in root.rglob("*")}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize(("above", "folder", "file"), [(0o755, 0o700, 0o600), (0o2770, 0o2770, 0o660)])
def test_modes_are_the_users_or_the_groups(tmp_path: Path, umask: int, above: int, folder: int, file: int) -> None:
    """Files and directories are private, or the group's in a setgid directory, whatever the umask."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(above)
    before = os.umask(umask)
    try:
        write(tmp_path / "shared" / "a" / "b" / "entry", b"value")
    finally:
        os.umask(before)
    assert modes(tmp_path / "shared") == {(True, folder), (False, file)}

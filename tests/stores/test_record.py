"""The record file: its layout, its growth, and its refusal of every kind of damage."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.errors import OutcomeUnknown, Unavailable
from interlock.stores import _record
from interlock.stores._record import HEADER, LIMIT_BYTES, PAGE, Damage, RecordFile, blank, open_regular, read_unlocked

FIRST = b'{"kind":"lock","name":"n","record":{}}\n'


@pytest.fixture
def file(tmp_path: Path) -> Iterator[RecordFile]:
    """A new record file that holds `FIRST`."""
    path = tmp_path / "record"
    path.write_bytes(blank(FIRST))
    opened = RecordFile(os.open(path, os.O_RDWR), str(path))
    assert opened.read() == FIRST
    yield opened
    opened.close()


def current(file: RecordFile) -> bytes:
    """The line that a newcomer without the lock reads."""
    return read_unlocked(file.fd)[1]


def content(file: RecordFile) -> bytes:
    return Path(file.path).read_bytes()


def test_a_person_can_read_it(file: RecordFile) -> None:
    """The file is a line of header and the record's line, as text."""
    header, line = content(file).split(b"\n")[:2]
    assert header.startswith(b"interlock 1 v=000000000001 at=0000064 len=%07d crc=" % len(FIRST))
    assert line + b"\n" == FIRST


def test_the_header_is_as_long_as_promised(file: RecordFile) -> None:
    """The header takes its 64 bytes for every size and version, so a line never begins inside it."""
    for version in (1, 999_999_999_999):
        assert len(_record.header(version, LIMIT_BYTES, b"x" * 1000)) == HEADER


def test_each_write_is_the_next_version(file: RecordFile) -> None:
    """Versions count the writes and the last line is the one that is read."""
    for number in range(2, 50):
        line = b"x" * (number % 7 + 1) + b"\n"
        file.write(line)
        assert read_unlocked(file.fd) == (number, line)


def test_a_second_descriptor_sees_each_write_and_its_own_as_known(file: RecordFile) -> None:
    """`read` gives a line once to whoever did not write it, and None while it is the one last seen."""
    other = RecordFile(os.open(file.path, os.O_RDWR), file.path)
    assert other.read() == FIRST
    assert other.read() is None
    file.write(b"second\n")
    assert file.read() is None
    assert other.read() == b"second\n"
    other.close()


def test_writers_in_turn_never_overwrite_the_line_that_counts(file: RecordFile) -> None:
    """Whatever the lengths, the bytes of the current line stay untouched until the header is replaced."""
    chance, pages = random.Random(1), set()
    other = RecordFile(os.open(file.path, os.O_RDWR), file.path)
    before, real = FIRST, os.pwrite

    def watched(fd: int, data: bytes, offset: int) -> int:
        if threading.current_thread() is threading.main_thread():  # a heart of an earlier test may still beat
            assert read_unlocked(fd)[1] == before
        return real(fd, data, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", watched)
        for _ in range(2000):
            writer = chance.choice((file, other))
            writer.read()
            line = os.urandom(chance.choice((1, 50, 400, 3000, 9000))).hex().encode() + b"\n"
            writer.write(line)
            before = line
            pages.add(os.fstat(file.fd).st_size)
    assert current(file) == before
    assert len(pages) > 1, "the file never grew"
    assert max(pages) < 6 * 18_001 + PAGE, "the file grows without end"
    other.close()


def test_a_release_finds_its_room_on_a_full_disk(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any write, releases go in without any new room, even the first, which may lengthen the line a little."""
    chance = random.Random(2)

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    for _ in range(300):
        long = chance.choice((60, 200, 1000, 1900, 2016, 4000, 9000)) + chance.randrange(40)
        file.write(b"x" * long + b"\n")
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            newcomer = RecordFile(os.dup(file.fd), file.path)
            newcomer.read()
            size = os.fstat(file.fd).st_size
            for length in sorted((chance.randrange(40, long * 5 // 4) for _ in range(6)), reverse=True):
                newcomer.write(b"y" * length + b"\n", spend=True)
            newcomer.close()
        assert os.fstat(file.fd).st_size == size
        file.read()


def test_only_a_release_spends_the_reserve(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """An acquire on a full disk fails while there is still room for the releases."""

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        file.write(b"x" * 2000 + b"\n")
    file.write(b"x" * 2000 + b"\n", spend=True)
    assert len(current(file)) == 2001


def test_a_full_disk_changes_nothing(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that finds no room fails and leaves the record, in the file and in memory."""

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = content(file)
    with pytest.raises(OSError, match="No space"):
        file.write(b"x" * 20_000)
    assert content(file) == before
    file.write(b"short\n")
    assert current(file) == b"short\n"


def test_a_short_write_changes_nothing(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk takes only part of the line, the record is as before, and it is told that the disk is full."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:5], at))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        file.write(b"longer than five\n")
    assert current(file) == FIRST


def test_a_header_that_fails_is_an_unknown_outcome(file: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a header that failed is on the disk cannot be known, and that is what the error says."""
    real = os.pwrite

    def failing(fd: int, data: bytes, at: int) -> int:
        if at == 0:
            raise OSError(5, "Input/output error")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OutcomeUnknown):
        file.write(b"second\n")
    assert current(file) == FIRST


def test_a_record_has_a_largest_size(file: RecordFile) -> None:
    """A line beyond the limit is refused with the path, and the record stays."""
    with pytest.raises(Unavailable, match="larger than"):
        file.write(b"x" * LIMIT_BYTES)
    assert current(file) == FIRST


def verdict(file: RecordFile, raw: bytes) -> bytes | None:
    """The line in a file's first page as a newcomer finds it, or None if it is refused."""
    try:
        return _record.read_line(file.fd, raw)[2]
    except Damage:
        return None


@pytest.mark.parametrize("writes", [0, 1])
def test_no_flipped_byte_makes_another_record(file: RecordFile, writes: int) -> None:
    """Every byte of header and line, changed to every other value: refused, or the very same record."""
    if writes:
        file.write(FIRST.replace(b"{}", b'{"token":7}'))
    line, sound = current(file), content(file)
    refused = 0
    for at in range(HEADER + 2 * len(line)):
        for value in range(256):
            found = verdict(file, sound[:at] + bytes([value]) + sound[at + 1 :])
            assert found in (None, line), f"byte {at} as {value}: {found!r}"
            refused += found is None
    assert refused > 50 * 200


@pytest.mark.parametrize("writes", [0, 1])
def test_no_truncation_makes_another_record(file: RecordFile, writes: int) -> None:
    """A file cut at any length is refused, or holds the whole record."""
    if writes:
        file.write(FIRST.replace(b"{}", b'{"token":7}'))
    line, sound = current(file), content(file)
    end = sound.rindex(line) + len(line)
    for length in range(len(sound), -1, -1):
        os.ftruncate(file.fd, length)
        assert verdict(file, os.pread(file.fd, PAGE, 0)) == (line if length >= end else None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\0" * PAGE, "not a record of interlock"),
        (b"4711\n", "not a record of interlock"),
        (b"interlock", "not a record of interlock"),
        (b"interlock 2 something else entirely\n", "newer interlock"),
        (b"interlock 1 v=1 at=64\n", "header is damaged"),
        (b"interlock 1 v=-1 at=0000064 len=0000003 crc=00000000 \nabc", "header is damaged"),
        (b"interlock 1 v=000000000001 at=0000003 len=0000003 crc=00000000 \nabc", "header is damaged"),
        (b"interlock 1 v=000000000001 at=0000064 len=9999999 crc=00000000 \nabc", "header is damaged"),
        (b"interlock 1 v=000000000001 at=9999999 len=0000003 crc=00000000 \nabc", "checksum"),
    ],
)
def test_foreign_and_newer_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    """Whatever is not a record of this schema is refused in words that say what it is."""
    path = tmp_path / "record"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(Damage, match=words):
            read_unlocked(fd)
    finally:
        os.close(fd)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe in a file's place is refused at once, not waited for; a symbolic link is not followed."""
    directory = os.open(tmp_path, os.O_RDONLY)
    os.mkfifo(tmp_path / "pipe")
    os.mkdir(tmp_path / "folder")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    try:
        for flags in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(Damage, match="not a regular file"):
                open_regular("pipe", flags, directory)
        with pytest.raises(Damage, match="not a regular file"):
            open_regular("folder", os.O_RDONLY, directory)
        with pytest.raises(OSError, match="symbolic links"):
            open_regular("link", os.O_RDWR | os.O_CREAT, directory)
    finally:
        os.close(directory)
    assert not (tmp_path / "victim").exists()


def test_readers_without_the_lock_never_see_a_mixture(file: RecordFile) -> None:
    """While a writer rewrites the record as fast as it can, every unlocked read is one of its lines."""
    from crash.processes import collected, fork, kill

    def write_for_ever() -> None:
        number = 0
        while True:
            number += 1
            file.write(b"%d" % number * (number % 97 + 1) + b"\n")

    with collected():
        writer = fork(write_for_ever)
        last, changes = 0, 0
        while changes < 200:
            version, line = read_unlocked(file.fd)
            assert version >= last
            if version > 1:
                number = version - 1
                assert line == b"%d" % number * (number % 97 + 1) + b"\n"
            changes += version > last
            last = version
        kill(writer)

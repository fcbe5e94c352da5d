"""`fenced_replace`: a holder that was superseded cannot overwrite what its successor wrote."""

from __future__ import annotations

import os
import pickle
import random
from contextlib import suppress
from pathlib import Path

import pytest

import interlock
from interlock.files import JsonFile, fenced_replace
from processes import finish, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file to be replaced; it does not exist yet."""
    return tmp_path / "model"


def source(path: Path, content: object) -> Path:
    """A finished file beside `path`."""
    made = path.with_name(f"{path.name}.{content}.{os.getpid()}")
    made.write_text(str(content))
    return made


def test_refuses_a_superseded_token(path: Path) -> None:
    """A smaller token is refused, and both files are as they were; the same and larger ones replace."""
    for token in (0, 5, 5, 7):
        fenced_replace(source(path, token), path, token=token)
        assert path.read_text() == str(token)
    late = source(path, 6)
    with pytest.raises(interlock.Superseded) as caught:
        fenced_replace(late, path, token=6)
    assert (path.read_text(), late.read_text()) == ("7", "6")
    assert sorted(os.listdir(path.parent)) == sorted([".interlock", path.name, late.name])
    assert (caught.value.path, caught.value.token, caught.value.newest) == (str(path), 6, 7)
    assert caught.value.definite
    assert str(path) in str(caught.value)


def test_error_crosses_processes(path: Path) -> None:
    """The error keeps what it says when it is pickled."""
    fenced_replace(source(path, 2), path, token=2)
    with pytest.raises(interlock.Superseded) as caught:
        fenced_replace(source(path, 1), path, token=1)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.token, copy.newest) == (interlock.Superseded, str(caught.value), 1, 2)


def test_takes_the_tokens_of_grants(path: Path, file_url: str) -> None:
    """A holder whose lock went to somebody else is refused with the token of its own grant."""
    with interlock.connect(file_url) as session:
        with session.lock("training") as first:
            pass
        with session.lock("training") as second:
            fenced_replace(source(path, "second"), path, token=second.token)
        with pytest.raises(interlock.Superseded):
            fenced_replace(source(path, "first"), path, token=first.token)
    assert path.read_text() == "second"


def test_all_names_of_a_file_share_its_token(tmp_path: Path) -> None:
    """A symbolic link leads to the token of what it points to, and stays a link."""
    (tmp_path / "there").mkdir()
    link, real = tmp_path / "link", tmp_path / "there" / "real"
    link.symlink_to("there/real")
    fenced_replace(source(link, 2), link, token=2)
    with pytest.raises(interlock.Superseded):
        fenced_replace(source(real, 1), real, token=1)
    assert link.is_symlink()
    assert real.read_text() == "2"


def test_files_of_one_directory_have_tokens_of_their_own(tmp_path: Path) -> None:
    """Even names that differ in one of 255 characters do not share a token."""
    names = ["n" * 254 + end for end in "ab"]
    made = tmp_path / "source"
    for token, name in zip((9, 1), names, strict=True):
        made.write_text(name)
        fenced_replace(made, tmp_path / name, token=token)
        assert (tmp_path / name).read_text() == name


@pytest.mark.parametrize("token", [-1, True, 1.0, "1", None])
def test_refuses_what_is_no_token(path: Path, token: object) -> None:
    """Anything but a whole number, 0 or more, is a mistake of the caller."""
    with pytest.raises(ValueError, match="token"):
        fenced_replace(source(path, "new"), path, token=token)  # type: ignore[arg-type]
    assert not path.exists()


def test_unusable_sources_and_targets_spend_no_token(path: Path) -> None:
    """A source that is missing, a directory or a link, or a target that is a directory: nothing is remembered."""
    (path.parent / "folder").mkdir()
    (path.parent / "link").symlink_to(source(path, "real"))
    for bad in ("missing", "folder", "link"):
        with pytest.raises(OSError, match=bad):
            fenced_replace(path.parent / bad, path, token=9)
    with pytest.raises(IsADirectoryError):
        fenced_replace(source(path, 9), path.parent / "folder", token=9)
    fenced_replace(source(path, 1), path, token=1)
    assert path.read_text() == "1"


def test_end_between_token_and_rename_is_safe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose rename did not happen refuses older ones already, and may try again itself."""
    fenced_replace(source(path, 1), path, token=1)
    rename = os.replace

    def fail(origin: str, target: str) -> None:
        if target == str(path):
            raise OSError("the power is off")
        rename(origin, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="the power is off"):
            fenced_replace(source(path, 3), path, token=3)
    assert path.read_text() == "1"
    with pytest.raises(interlock.Superseded):
        fenced_replace(source(path, 2), path, token=2)
    fenced_replace(source(path, 3), path, token=3)
    assert path.read_text() == "3"


def test_damaged_token_is_refused(path: Path) -> None:
    """A token that cannot be read lets nobody replace, and the error says where it is."""
    fenced_replace(source(path, 1), path, token=1)
    record = path.parent / ".interlock" / "tokens" / path.name
    record.write_text("1x\n")
    with pytest.raises(interlock.RecordInvalid, match=str(record)):
        fenced_replace(source(path, 2), path, token=2)
    assert path.read_text() == "1"


def test_waits_for_writers_of_the_same_file(path: Path) -> None:
    """A replacement never falls between the read and the write of a `JsonFile`; with timeout 0 it says so at once."""
    made = source(path, '{"by": "fence"}')

    def update(data: dict[str, str]) -> dict[str, str]:
        with pytest.raises(interlock.Deadlock):
            fenced_replace(made, path, token=1)
        finish(start(try_once))
        return {"by": "update"}

    def try_once() -> None:
        with pytest.raises(interlock.AcquireTimeout):
            fenced_replace(made, path, token=1, timeout=0)

    JsonFile(path).update(update, default={})
    assert JsonFile(path).read() == {"by": "update"}


def replace_all(path: Path, tokens: list[int]) -> None:
    for token in tokens:
        with suppress(interlock.Superseded):
            fenced_replace(source(path, token), path, token=token, sync=False)


def test_racing_holders_never_go_back(path: Path) -> None:
    """Whatever order the holders come in, the file's tokens only grow, and the largest one wins."""
    fenced_replace(source(path, 0), path, token=0)
    tokens = list(range(1, 121))
    random.Random(7).shuffle(tokens)
    writers = [start(replace_all, path, sorted(tokens[part::4], key=lambda token: token // 20)) for part in range(4)]
    seen = [0]
    while any(writer.is_alive() for writer in writers):
        seen.append(int(path.read_text()))
    finish(*writers)
    assert seen == sorted(seen)
    assert path.read_text() == "120"

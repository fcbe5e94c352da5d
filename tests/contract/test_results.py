"""What a result may be: small and large values, arrays, and mixtures of them, read alike by everybody."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interlock
from contract.peer import Peer
from interlock import clearing, results

Connect = Callable[..., interlock.Session]
Peers = Callable[..., Peer]

PLAIN = [None, True, 1, 1.5, "text", b"bytes", [1, (2, {"a": b""})], {1: "a", (2, 3): None}, {"$interlock": "beyond"}]
LARGE = 1_000_000


@pytest.mark.parametrize(
    "value", [*PLAIN, "ä" * LARGE, b"\xff" * LARGE, list(range(50_000)), {"a": ["x" * LARGE]}], ids=repr
)
def test_a_value_comes_back_as_it_was(connect: Connect, value: Any) -> None:
    """The one who computed and whoever comes later get an equal value of the same types."""
    for session in (connect(), connect()):
        read = session.once("a", lambda: value)
        assert read == value
        assert repr(read) == repr(value)


@pytest.mark.parametrize("size", [3, 500_000])
def test_arrays_travel_wherever_they_stand(connect: Connect, size: int) -> None:
    """Arrays in tuples and dictionaries come back read-only with dtype and shape; large ones are mapped from a file."""
    made = np.arange(size, dtype="<i2").reshape(1, -1)
    for session in (connect(), connect()):
        labels, rest = session.once("a", lambda: (["a"], {"x": made, "scale": np.float32(0.5)}))
        assert labels == ["a"]
        assert type(rest["scale"]) is np.float32
        assert rest["x"].dtype == made.dtype
        assert np.array_equal(rest["x"], made)
        assert not rest["x"].flags.writeable
        assert (isinstance(root(rest["x"]), mmap.mmap)) == (size > 1000)


def root(array: Any) -> Any:
    """What an array's memory belongs to in the end."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


def large() -> Any:
    """An array that needs a file."""
    return np.ones(LARGE)


def total(session: interlock.Session, name: str) -> float:
    """The sum of the array that is a once's result, which must be there already."""
    return float(session.once(name, pytest.fail).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_large_results_reach_other_processes(file_url: str, peers: Peers, method: str) -> None:
    """Another process reads the array that this one computed."""
    with interlock.connect(file_url) as session:
        session.once("a", large)
        assert peers(method).call(total, "a") == LARGE


def attachments(session: interlock.Session) -> list[str]:
    """The files of all results."""
    path = Path(session.store.attachments)
    return sorted(os.listdir(path)) if path.exists() else []


def test_a_forgotten_result_leaves_no_file_but_stays_readable(connect: Connect) -> None:
    """`forget` removes the file; an array that was read before is good for as long as somebody has it."""
    session = connect()
    array = session.once("a", large)
    assert len(attachments(session)) == 1
    interlock.Once(session, "a").forget()
    assert attachments(session) == []
    assert array.sum() == LARGE
    assert session.once("a", large).sum() == LARGE


def test_a_result_that_is_not_kept_leaves_no_file(connect: Connect) -> None:
    """When the last one who was to have it has read it, its files go, nested ones too; what was read stays good."""
    session = connect()
    array, text, many = interlock.Once(session, "a", keep=False).run(
        lambda: (large(), "x" * 200_000, [f"{number:03}" * 300 for number in range(400)])
    )
    assert attachments(session) == []
    assert (array.sum(), len(text), many[399][:3]) == (LARGE, 200_000, "399")


def test_the_files_of_earlier_turns_go(connect: Connect) -> None:
    """However many turns a fence has, there is one file; what was collected before stays readable."""
    session = connect(rank=0, size=1)
    collected = [session.single("a", lambda number=number: np.full(LARGE, number)) for number in range(4)]
    assert len(attachments(session)) == 1
    assert [array[0] for array in collected] == [0, 1, 2, 3]


def test_a_result_that_cannot_be_written_leaves_no_file(connect: Connect) -> None:
    """A value of which one part cannot travel is an error, and the parts before it are not kept."""
    session = connect()
    with pytest.raises(TypeError, match="cannot travel"):
        session.once("a", lambda: [large(), object()])
    assert attachments(session) == []


def test_a_lost_file_is_computed_again(connect: Connect) -> None:
    """A result whose file somebody removed cannot be read: that is told, not waited for, and `forget` helps."""
    session = connect()
    session.once("a", large)
    os.unlink(os.path.join(session.store.attachments, attachments(session)[0]))
    with pytest.raises(results.Missing, match="is gone"):
        connect().once("a", pytest.fail)
    interlock.Once(session, "a").forget()
    assert session.once("a", large).sum() == LARGE


def test_a_damaged_file_is_an_error(connect: Connect) -> None:
    """A file that was changed is never read as data by a process that has not checked it yet."""
    session = connect()
    session.once("a", lambda: "x" * LARGE)
    path = Path(session.store.attachments, attachments(session)[0])
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(interlock.RecordInvalid, match="checksum"):
        connect().once("a", pytest.fail)


def test_clearing_removes_files_without_a_record(connect: Connect) -> None:
    """The files of a record that is gone are listed and removed; those of a living result stay."""
    session = connect()
    session.once("kept", large)
    orphan = os.path.join(session.store.attachments, f"{results.prefix('gone')}-1-abc")
    Path(orphan).write_bytes(b"left behind")
    steps = [step for step in clearing.plan(session.store) if step.action == "remove"]
    assert [step.path for step in steps] == [orphan]
    assert clearing.perform(session.store, steps[0])
    assert len(attachments(session)) == 1
    assert connect().once("kept", pytest.fail).sum() == LARGE

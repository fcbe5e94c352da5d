"""Keys: equal text for equal keys only, everywhere."""

from __future__ import annotations

import enum
import math
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.keys import canonical


class Colour(enum.Enum):
    RED = 1
    BLUE = 2
    CRIMSON = RED


class Shade(enum.Enum):
    RED = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: float
    label: str = ""


@dataclass(frozen=True)
class Place:
    x: float
    label: str = ""


@dataclass
class Changing:
    x: int = 0


structured = numpy.dtype([("a", "i1"), ("b", "f8")], align=True)

DIFFERENT: list[Any] = [
    None, "None", b"None", "", b"", 0, False, 0.0, -0.0, 0j, "0", 1, True, 1.0, "1", b"1", (1,), [1], {1},
    frozenset({1}), {1: 1}, {"1": 1}, {1: "1"}, (), [], {}, set(), frozenset(), ((),), (1, 2), (2, 1), ((1, 2),),
    ("1, 2",), {1, 2},
    math.inf, -math.inf, 0.1, 0.1 + 2**-56, 1e16, 10**16, "a", "b", "'a'", ("a", "b"), ("a', 'b",), "\udc80",
    "é", "\\xe9",
    Path("a"), PurePosixPath("a"), PureWindowsPath("a"), Path("/a"), Path("b"), Colour.RED, Colour.BLUE, Shade.RED,
    Right.READ, Right.READ | Right.WRITE, Right(0), Point(1.0), Point(1.0, "a"), Point(1), Place(1.0),
    {"x": 1.0, "label": ""},
    numpy.float64(1), numpy.float32(1), numpy.int64(1), numpy.int32(1), numpy.bool_(True), numpy.str_("1"),
    numpy.float64(0.1), numpy.float32(0.1), numpy.longdouble("0.1"), numpy.datetime64("2020"),
    numpy.datetime64("2020-01"),
    numpy.array(1), numpy.array([1]), numpy.array([[1]]), numpy.array([1.0]), numpy.array([1], ">i8"), numpy.array([2]),
    numpy.zeros((2, 3)), numpy.zeros((3, 2)), numpy.zeros(0), numpy.zeros((0, 3)), numpy.array(["1"]),
    numpy.array([b"1"]),
    numpy.zeros(1, structured), numpy.ones(1, structured), numpy.zeros(1, structured)[0],
    numpy.array(["2020"], "M8[D]"),
]  # fmt: skip


def test_different_keys_have_different_text() -> None:
    """No two of many keys that look alike share their text, alone or inside a tuple."""
    texts = [canonical(value) for value in DIFFERENT]
    assert len(set(texts)) == len(DIFFERENT)
    assert len({canonical((value, value)) for value in DIFFERENT}) == len(DIFFERENT)
    assert all(text.isascii() for text in texts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {2, 3, 1}),
        (frozenset({"a", "b"}), frozenset({"b", "a"})),
        (Colour.RED, Colour.CRIMSON),
        (numpy.arange(6).reshape(2, 3), numpy.asfortranarray(numpy.arange(6).reshape(2, 3))),
        (numpy.arange(10)[::2], numpy.array([0, 2, 4, 6, 8])),
        ({"k": [Point(1.0), Path("a")]}, {"k": [Point(1.0, ""), Path("./a")]}),
    ],
)
def test_equal_keys_have_equal_text(one: Any, other: Any) -> None:
    """The order of dictionaries and sets does not count, nor how an array lies in memory."""
    assert canonical(one) == canonical(other)


def test_padding_between_fields_does_not_count() -> None:
    """Two structured arrays with the same fields are one key, whatever lies between the fields."""
    raw = [bytearray(fill * structured.itemsize) for fill in (b"\0", b"\xff")]
    first, second = (numpy.frombuffer(buffer, structured).copy() for buffer in raw)
    first["a"] = second["a"] = 7
    first["b"] = second["b"] = 0.5
    assert first.tobytes() != second.tobytes()
    assert canonical(first) == canonical(second)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
keys = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """The value in a form whose equality sees types and bits."""
    if isinstance(value, float):
        return float, "nan" if math.isnan(value) else struct.pack("d", value)
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    if isinstance(value, dict):
        return dict, sorted(((repr(typed(key)), repr(typed(item))) for key, item in value.items()))
    return type(value), value


@given(keys, keys)
def test_text_is_equal_exactly_for_equal_keys(one: Any, other: Any) -> None:
    """Two values have one text if, and only if, they have the same types and content."""
    assert (canonical(one) == canonical(other)) == (typed(one) == typed(other))


@given(keys)
def test_text_is_literal(value: Any) -> None:
    """Plain values read back from their text: so nothing of them is left out or rounded."""
    back = eval(canonical(value), {"nan": math.nan, "inf": math.inf})
    assert typed(back) == typed(value)


@given(st.lists(st.text() | st.integers()))
def test_the_order_of_sets_does_not_count(items: list[Any]) -> None:
    """A set has one text, in whatever order it was filled."""
    backwards = set()
    for item in reversed(items):
        backwards.add(item)
    assert canonical(set(items)) == canonical(backwards)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "builtins.object"),
        (lambda: 0, "function"),
        ([Changing()], "Changing.*frozen"),
        (Point, "builtins.type"),
        (numpy.array([None]), "dtype object"),
        (numpy.array(["a"], numpy.dtypes.StringDType()), "StringDType"),
        (numpy.ma.array([1], mask=[True]), "MaskedArray"),
        ({(1, bytearray(b"x").__class__): 1}, "builtins.type"),
    ],
)
def test_anything_else_is_refused_by_name(value: Any, named: str) -> None:
    """What has no text of its own is a TypeError that names its type, also deep inside."""
    with pytest.raises(TypeError, match=named):
        canonical(value)


def test_a_key_that_contains_itself_is_refused() -> None:
    """A list inside itself is a TypeError, not an endless text."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="contains itself"):
        canonical(endless)


def test_text_does_not_depend_on_the_process() -> None:
    """Two processes with other hash seeds write the same text."""
    program = "from interlock.keys import canonical; print(canonical({'a', 'b', 'c', ('d', 1.5)}))"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {"set('a', 'b', 'c', ('d', 1.5))\n"}

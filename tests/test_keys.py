"""Names made of parameters: one for each choice, the same from Python and from a shell."""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import interlock
from interlock.keys import LONGEST_KEY, key_of
from interlock.objects.named import check_name

texts = st.text() | st.text("0123456789.eE+-_", max_size=6) | st.sampled_from(["None", "True", "inf", "nan", "a#done"])
values = texts | st.booleans() | st.integers() | st.floats() | st.none()
names = st.from_regex(r"[a-z_]{1,3}", fullmatch=True) | st.text(min_size=1, max_size=3)
choices = st.dictionaries(names, values, max_size=3).filter(lambda chosen: any(v is not None for v in chosen.values()))


def meant(chosen: dict[str, Any]) -> set[tuple[str, str, Any]]:
    """A choice in a form that is equal for two exactly if they mean the same: numbers by value, without None."""
    found = set()
    for name, value in chosen.items():
        kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
        if value is not None:
            found.add((name, kind, "nan" if value != value else value))
    return found


@given(choices, choices)
@example({"a": 1, "b": 2}, {"a": "1,b=2"})
@example({"a": "b", "c": "d"}, {"a": "b,c=d"})
@example({"a=1,b": 2}, {"a": 1, "b": 2})
@example({"a": 0.1}, {"a": 0.1 + 2**-56})
@example({"a": 2**53}, {"a": float(2**53)})
@example({"a": 2**53 + 1}, {"a": float(2**53)})
@example({"a": "'x'"}, {"a": "x"})
def test_two_choices_have_one_name_exactly_if_they_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """No two different choices of parameters share a name, and no choice has two."""
    assert (interlock.key(**one) == interlock.key(**other)) == (meant(one) == meant(other))


@given(names.filter(lambda name: "=" not in name), values.filter(lambda value: value is not None))
@example("ratio", 1e22)
@example("ratio", 5e-324)
@example("model", "007")
@example("model", "x")
def test_a_shell_comes_to_the_same_name(name: str, value: Any) -> None:
    """What Python writes of a value is read back as it, text in quotes always, other text unless it reads otherwise."""
    expected = interlock.key(**{name: value})
    assert key_of([f"{name}={value!r}"]) == expected
    if value and isinstance(value, str) and expected.endswith("=" + value):
        assert key_of([f"{name}={value}"]) == expected


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,3}", fullmatch=True), values.filter(lambda v: v is not None), min_size=1)
)
def test_a_name_is_made_of_items_that_read_back(chosen: dict[str, Any]) -> None:
    """An item copied from a name that is shown gives that item again."""
    items = [interlock.key(**{name: value}) for name, value in sorted(chosen.items())]
    assert [key_of([item]) for item in items] == items
    if sum(map(len, items)) < LONGEST_KEY / 2:
        assert interlock.key(**chosen) == ",".join(items) == key_of(reversed(items))


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        (
            {"strategy": "baseline", "dataset": "IDD-AW", "model": "deeplabv3plus_r50", "ratio": 0.5},
            "dataset=IDD-AW,model=deeplabv3plus_r50,ratio=0.5,strategy=baseline",
        ),
        ({"ratio": 0.121, "seed": 20240101, "lr": 1e-05}, "lr=0.00001,ratio=0.121,seed=20240101"),
        ({"a": 1e-7, "b": 1e-8, "c": 10**21, "d": 10**30 + 1, "e": -1.25e300},
         "a=0.0000001,b=1e-8,c=1e21,d=1.000000000000000000000000000001e30,e=-1.25e300"),
        ({"a": "0.5", "b": "None", "c": "True", "d": "1e5", "e": "007"}, "a='0.5',b='None',c='True',d='1e5',e=007"),
        ({"a": True, "b": math.inf, "c": math.nan, "d": -0.0, "e": None}, "a=True,b=inf,c=nan,d=0"),
        ({"a": "x,y=1", "b": "it's 1\n", "c": "größe", "d": ""}, r"""a='x,y=1',b="it's 1\n",c='gr\xf6\xdfe',d=''"""),
        ({"a": "s3://b/c@2+x:%"}, "a=s3://b/c@2+x:%"),
    ],
)  # fmt: skip
def test_names_are_readable(chosen: dict[str, Any], name: str) -> None:
    """Parameters stand in order, as a person would write them, in quotes only where they must."""
    assert interlock.key(**chosen) == name


@pytest.mark.parametrize(
    ("items", "chosen"),
    [
        (["strategy=baseline", "ratio=0.5"], {"ratio": 0.5, "strategy": "baseline"}),
        (["ratio=0.50", "lr=1E-4", "seed=+7"], {"ratio": 0.5, "lr": 0.0001, "seed": 7.0}),
        (["a=.5", "b=5.", "c=-0", "d=1e0"], {"a": 0.5, "b": 5, "c": 0, "d": True + 0}),
        (["a='0.5'", 'b="it\'s"', "c=0.5 "], {"a": "0.5", "b": "it's", "c": "0.5 "}),
        (["a=True", "b=None", "c=true", "d=x=y"], {"a": True, "c": "true", "d": "x=y"}),
    ],
)
def test_what_a_shell_writes(items: list[str], chosen: dict[str, Any]) -> None:
    """Numbers may be written in any way, the order does not count, and None is not given."""
    assert key_of(items) == interlock.key(**chosen)


def test_a_shells_number_is_not_rounded() -> None:
    """Digits beyond those of a float count: two numbers that differ there have two names."""
    close = [key_of([f"x={text}"]) for text in ("0.1", "0.10000000000000000001", "0.10000000000000000002")]
    assert len(set(close)) == 3
    assert close[0] == interlock.key(x=0.1)


def test_scalars_of_numpy_are_numbers() -> None:
    """A value out of an array is the number that it is equal to."""
    scalars = {"a": numpy.float64(0.5), "b": numpy.int32(7), "c": numpy.bool_(True), "d": numpy.str_("x")}
    assert interlock.key(**scalars) == interlock.key(a=0.5, b=7, c=True, d="x")
    assert interlock.key(a=numpy.float32(0.1)) != interlock.key(a=0.1)


@pytest.mark.parametrize("wrong", [Path("a"), (1, 2), b"a", 1j, object(), enum.Enum("Strategy", "BASELINE").BASELINE])
def test_other_types_are_refused_by_name(wrong: Any) -> None:
    """What a shell could not write is a TypeError that names the parameter."""
    with pytest.raises(TypeError, match="'strategy'"):
        interlock.key(strategy=wrong)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["strategy"], "NAME=VALUE"),
        (["=baseline"], "NAME=VALUE"),
        (["ratio="], "no value"),
        (["a=1", "a=2"], "twice"),
        (["a='x"], "quote"),
        (["a='x',"], "quote"),
        (["a=None"], "at least one"),
        ([], "at least one"),
    ],
)
def test_what_is_no_choice_is_refused(items: list[str], said: str) -> None:
    """A slip in a script, such as a variable that is not set, is an error and never another choice's name."""
    with pytest.raises(ValueError, match=said):
        key_of(items)


def test_nothing_is_no_name() -> None:
    """A call without parameters, or with None only, has no name that all such calls would share."""
    for nothing in ({}, {"ratio": None}):
        with pytest.raises(ValueError, match="at least one"):
            interlock.key(**nothing)


@given(st.text(min_size=LONGEST_KEY, max_size=3 * LONGEST_KEY), st.text(max_size=3))
def test_a_long_name_is_cut_and_stays_its_own(text: str, other: str) -> None:
    """Every key can be a name with something appended; two long ones that begin alike differ."""
    name = interlock.key(note=text)
    assert name.startswith("note=")
    assert len(name) <= LONGEST_KEY
    assert check_name(f"{name}#done")
    assert name != interlock.key(note=text + other + ".")
    assert key_of([f"note={text!r}"]) == name


def test_no_key_looks_like_one_that_was_cut() -> None:
    """A text that equals a cut name's end is in quotes, so the two differ."""
    cut = interlock.key(note="a" * 2000)
    _, mark, digest = cut.rpartition("#")
    assert (len(cut), mark, len(digest)) == (LONGEST_KEY, "#", 32)
    assert interlock.key(note=cut.removeprefix("note=")) != cut
    assert not interlock.key(note="a#done").endswith("#done")

"""Memoized functions: found by name, arguments and version, and only where that is all they depend on."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.cache import Cache
from interlock.cache.memoize import Memoized

computed: list[Any] = []


def scale(n: int, factor: float = 2.0, *rest: int, flag: bool = False, **more: int) -> float:
    """Scales."""
    computed.append(n)
    return n * factor + sum(rest) + sum(more.values())


@dataclass(frozen=True)
class Model:
    size: int

    def area(self, height: int) -> int:
        computed.append(height)
        return self.size * height


@pytest.fixture(autouse=True)
def _nothing_computed() -> None:
    computed.clear()


def test_one_computation_per_call(cache: Cache) -> None:
    """However its arguments are spelled, a call is computed once; others, and other types, are other calls."""
    f = cache.memoize()(scale)
    assert f(3) == f(n=3) == f(3, 2.0) == f(factor=2.0, n=3) == 6.0
    assert computed == [3]
    assert f(3, 2) == 6
    assert f(3, 2.0, 1) == f(3, 2.0, x=1) == f(3, 2.0, y=1) == 7.0
    assert f(3, flag=True) == 6.0
    assert len(computed) == 6
    assert f(3, y=1, x=2) == f(3, x=2, y=1)
    assert len(computed) == 7


def test_a_version_is_another_function(cache: Cache) -> None:
    """A new version computes anew, the old one's results are still its own, and `explain` tells of them."""
    first, second = cache.memoize(version=1)(scale), cache.memoize(version="b")(scale)
    assert (first(3), second(3), first(3)) == (6.0, 6.0, 6.0)
    assert computed == [3, 3]
    first.forget(3)
    assert first.explain(3).startswith("missing: deleted on ")
    assert "there is version='b', stored by " in first.explain(3)
    assert "present" in second.explain(3)
    assert first.explain(4) == "missing: never computed"


def test_keys_serve_the_cache(cache: Cache) -> None:
    """`key` is what `get`, `put` and the others take; `forget` removes one call's result only."""
    f = cache.memoize()(scale)
    f(3)
    f(4)
    assert cache.get(f.key(3)) == 6.0
    assert (f.forget(3), f.forget(3)) == (True, False)
    cache.put(f.key(3), 1.5)
    assert f(3) == 1.5
    assert f(4) == 8.0
    assert computed == [3, 4]


def test_methods_have_their_object_in_the_key(cache: Cache) -> None:
    """A method of a frozen dataclass is memoized per object, by what the object is."""

    class Memo(Model):
        area = cache.memoize()(Model.area)

    memo = dataclass(frozen=True)(Memo)
    assert memo(2).area(3) == memo(2).area(height=3) == 6
    assert memo(4).area(3) == 12
    assert computed == [3, 3]


def test_errors_are_raised_and_forgotten(cache: Cache) -> None:
    """An error is not a result: the next call computes."""
    f = cache.memoize()(scale)
    for _ in range(2):
        with pytest.raises(TypeError, match="unsupported"):
            f(3, None)
    assert computed == [3, 3]


def test_arguments_that_are_no_key_are_refused(cache: Cache) -> None:
    """A call whose arguments have no text is a TypeError, and is not made."""
    with pytest.raises(TypeError, match="part of a key"):
        cache.memoize()(scale)(object())
    with pytest.raises(TypeError, match="argument"):
        cache.memoize()(scale)()
    assert computed == []


async def later() -> None: ...


def some() -> Iterator[int]:
    yield 1


async def some_later() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("fn", [lambda: 0, len, later, some, some_later, Model, Model(1).area])
def test_what_cannot_be_memoized_is_refused(cache: Cache, fn: Any) -> None:
    """No name of its own, or nothing to store: refused where it is decorated, not when it is called."""
    with pytest.raises(TypeError, match="cannot be memoized"):
        cache.memoize()(fn)


def test_hidden_inputs_are_refused(cache: Cache) -> None:
    """A function that uses variables of the one around it would return another's result."""

    def make(hidden: int) -> Any:
        def inner(n: int) -> int:
            return n + hidden

        return inner

    with pytest.raises(TypeError, match="hidden"):
        cache.memoize()(make(1))


def test_forgotten_parentheses_are_told(cache: Cache) -> None:
    """`@cache.memoize` without parentheses is an error that says so; a version must be a key."""
    with pytest.raises(TypeError, match="parentheses"):
        cache.memoize(scale)
    with pytest.raises(TypeError, match="key"):
        cache.memoize(version=object())(scale)


twin = Memoized(Cache(interlock.connect("memory://memoize"), "unused"), scale, 1)
twin.__qualname__ = "twin"


def test_it_looks_and_pickles_like_the_function() -> None:
    """Name and docstring are the function's own, and it pickles by its name."""
    assert (twin.__name__, twin.__doc__, twin.__wrapped__) == ("scale", "Scales.", scale)
    assert pickle.loads(pickle.dumps(twin)) is twin


SCRIPT = """
import interlock
from interlock.cache import Cache

cache = Cache(interlock.connect({url!r}), "cache")

@cache.memoize()
def f(n):
    print("computed")
    return {value}

print(f(1))
"""


def test_functions_of_two_scripts_are_apart(tmp_path: Path, file_url: str) -> None:
    """Functions of one name in two scripts do not get each other's results; a script run again gets its own."""
    told = []
    for name, value in (("a", 1), ("b", 2), ("a", 1)):
        (tmp_path / f"{name}.py").write_text(SCRIPT.format(url=file_url, value=value))
        done = subprocess.run([sys.executable, tmp_path / f"{name}.py"], capture_output=True, text=True, check=True)
        told.append(done.stdout.split())
    assert told == [["computed", "1"], ["computed", "2"], ["1"]]

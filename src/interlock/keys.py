"""Keys: a value as text that is typed, readable, the same everywhere, and different for different values.

``canonical({"k": (1, 0.1)})`` is ``{'k': (1, 0.1)}``. Types count: 1, 1.0, True and "1" are four keys, and a list is
not the tuple of its items. Nothing is rounded: a float is written so that it reads back to the same bits. The order of
a dictionary or a set does not count. An array is its type, its shape and a digest of its content. The text is ASCII and
does not depend on the process, the host or the hash seed.

What has no text of its own is refused: a key that leaves out a part of its value would find another value's entry.

``key(model="r50", ratio=0.5)`` is ``model=r50,ratio=0.5``, a name for people, made of parameters that are text, numbers
and booleans. Here a number is its exact value, however it is written: 1, 1.0 and 1e0 are one, as they are equal, so
that a shell script, which has text only, comes to the name that Python makes (`key_of`). Every item reads back to the
value it was made of: what would read as something else stands in quotes.

Layer: bottom; imports nothing of ours.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, Flag
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

LONGEST_KEY = 900  # characters of a key, so that a name leaves room for what is appended to it
_PLAIN = re.compile(r"[A-Za-z0-9_./:+@%-]+")  # without "#": no key ends as a name with a suffix does
_NUMBER = re.compile(r"([+-]?)(0|[1-9][0-9]*|(?=\.[0-9]))(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,9}))?")
_FIXED = range(-6, 22)  # where the point may stand for a number to be written without an exponent
_WORDS = ("None", "True", "False", "inf", "-inf", "nan")


def key(**parameters: str | float | bool | None) -> str:
    """One name for a choice of parameters: readable, the same everywhere, and another one for any other choice.

    ``key(strategy="baseline", ratio=0.5)`` is ``ratio=0.5,strategy=baseline``: the order does not count, nothing is
    rounded, and quotes stand only where a text would read as something else: the text "0.5" is ``'0.5'``. True is not
    1, nor "True". A parameter that is None counts as not given, so one that is new changes no older name.

    Args:    parameters: text, numbers, booleans, numpy's scalars, or None.
    Returns: the name, of up to 900 characters; a longer one is its beginning, ``#`` and a digest of all of it.
    Raises:  TypeError: a parameter of another type. ValueError: no parameter is given.
    """
    return _key({name: _item(name, value) for name, value in parameters.items()})


def key_of(items: Iterable[str]) -> str:
    """`key` of ``NAME=VALUE`` texts, as they come from a shell.

    A value written as a number is that number: ``0.50`` is 0.5, and only with zeros before it, as ``007``, it is text.
    ``True``, ``False`` and ``None`` are what they are in Python. Everything else is text, and what stands in quotes is.

    Raises:  ValueError: not of that form, a parameter given twice, quotes that do not match, or no value: a variable
             of the script that is not set would make one name of many.
    """
    read: dict[str, str | None] = {}
    for item in items:
        name, mark, text = item.partition("=")
        if not mark or not name:
            raise ValueError(f"a parameter of a key is NAME=VALUE, not {item!r}")
        if not text:
            raise ValueError(f"the parameter {name!r} has no value: give one, leave it out, or quote an empty text: ''")
        if name in read:
            raise ValueError(f"the parameter {name!r} is given twice")
        read[name] = _reread(text)
    return _key(read)


def _key(items: Mapping[str, str | None]) -> str:
    """The items in order, those that are None left out, as a name that is not too long."""
    given = sorted((name, text) for name, text in items.items() if text is not None)
    if not given:
        raise ValueError("a key needs at least one parameter that is not None")
    whole = ",".join([f"{_quoted(name)}={text}" for name, text in given])
    if len(whole) <= LONGEST_KEY:
        return whole
    from hashlib import blake2b  # not at import: few keys are that long

    digest = blake2b(whole.encode("ascii"), digest_size=16).hexdigest()
    return f"{whole[: LONGEST_KEY - len(digest) - 1]}#{digest}"


def _item(name: str, value: Any) -> str | None:
    """The text of a parameter's value."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, str):
        return _quoted(str.__str__(value))
    if isinstance(value, int | float):
        text = (float if isinstance(value, float) else int).__repr__(value)
        return _number(text) or text
    raise TypeError(f"the parameter {name!r} is a {_name(type(value))}; a key is made of text, numbers and booleans")


def _reread(text: str) -> str | None:
    """The text of the value that a text stands for."""
    if text in _WORDS:
        return None if text == "None" else text
    if text[0] not in "'\"":
        return _number(text) or _quoted(text)
    import ast  # not at import: few values are quoted

    try:
        inner = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        inner = None
    if not isinstance(inner, str):
        raise ValueError(f"a value that begins with a quote is a text in quotes, as Python writes it, not {text!r}")
    return _quoted(inner)


def _quoted(text: str) -> str:
    """A text as it stands, or in quotes if it would then read as something else."""
    plain = _PLAIN.fullmatch(text) and text not in _WORDS and _number(text) is None
    return text if plain else ascii(text)


def _number(text: str) -> str | None:
    """The one way to write the number that a text is, digit by digit; None if it is none."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, whole, fraction, exponent = (group or "" for group in found.groups())
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)  # how many digits stand before it
    digits = digits.rstrip("0")
    if not digits:
        return "0"
    if point not in _FIXED:
        text = f"{digits[0]}.{digits[1:]}".rstrip(".") + f"e{point - 1}"
    elif point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[:point].ljust(point, '0')}.{digits[point:]}".rstrip(".")
    return text if sign != "-" else f"-{text}"


def canonical(value: Any) -> str:
    """The text of a key.

    Takes:   None, bool, int, float, complex, str, bytes; tuple, list, dict, set, frozenset of what it takes; pathlib
             paths, enumeration members, frozen dataclasses, numpy arrays and scalars.
    Returns: ASCII text; equal for two values only if they have the same types and content.
    Raises:  TypeError: anything else, named; an array of objects; a value that contains itself.
    """
    try:
        return _text(value)
    except RecursionError:
        raise TypeError(f"a {_name(type(value))} that is nested too deeply, or contains itself, is no key") from None


def _text(value: Any) -> str:
    writer = _WRITERS.get(type(value))
    if writer is not None:
        return writer(value)
    if isinstance(value, Flag):
        return f"{_name(type(value))}({value.value!r})"
    if isinstance(value, Enum):
        return f"{_name(type(value))}.{value.name}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dataclass(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return _scalar(value)
    if numpy is not None and type(value) in (numpy.ndarray, numpy.memmap):
        return _array(value)
    raise TypeError(
        f"a {_name(type(value))} cannot be part of a key: make the key of numbers, strings, bytes, paths, enumeration "
        "members, numpy arrays, frozen dataclasses, and tuples, lists, dictionaries or sets of these"
    )


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _joined(items: Iterable[Any]) -> str:
    return ", ".join([_text(item) for item in items])


def _tuple(value: tuple[Any, ...]) -> str:
    return f"({_text(value[0])},)" if len(value) == 1 else f"({_joined(value)})"


def _dict(value: dict[Any, Any]) -> str:
    items = sorted((_text(key), _text(item)) for key, item in value.items())
    return "{" + ", ".join([f"{key}: {item}" for key, item in items]) + "}"


def _set(value: set[Any] | frozenset[Any]) -> str:
    return f"{type(value).__name__}({', '.join(sorted(_text(item) for item in value))})"


def _dataclass(value: Any) -> str:
    kind = type(value)
    if not kind.__dataclass_params__.frozen:
        raise TypeError(
            f"a {_name(kind)} cannot be part of a key, because it may change: declare it with "
            "@dataclass(frozen=True), or give its fields"
        )
    fields = [f"{field.name}={_text(getattr(value, field.name))}" for field in dataclasses.fields(value)]
    return f"{_name(kind)}({', '.join(fields)})"


def _path(value: Any) -> str:
    return f"{type(value).__name__}({str(value)!a})"


def _scalar(value: Any) -> str:
    """A numpy scalar by its exact Python twin, or by its own digits where there is none."""
    item = value.item()
    if value.dtype.names:
        text = _array(value)
    else:
        text = _text(item) if type(item) in _EXACT else ascii(str(value))
    return f"numpy.{type(value).__name__}({text})"


def _array(value: Any) -> str:
    from hashlib import blake2b  # not at import: few programs have arrays in their keys

    if value.dtype.names:  # field by field: between fields lies padding of any content
        fields = ", ".join([f"{name!a}: {_array(value[name])}" for name in value.dtype.names])
        return f"numpy.array({{{fields}}})"
    if value.dtype.kind not in "biufcmMSUV" or value.dtype.hasobject:
        raise TypeError(
            f"an array of dtype {value.dtype} cannot be part of a key, because its content is objects: "
            "convert it to numbers, to text (dtype 'U'), or to a tuple"
        )
    content = value.tobytes() if value.dtype.itemsize else b""
    digest = blake2b(content, digest_size=16).hexdigest()
    return f"numpy.array({value.dtype.str}, {value.shape}, {digest})"


_EXACT = (bool, int, float, complex, str, bytes)
_WRITERS: dict[type, Callable[[Any], str]] = {
    type(None): repr,
    bool: repr,
    int: repr,
    float: repr,
    complex: repr,
    str: ascii,
    bytes: repr,
    tuple: _tuple,
    list: lambda value: f"[{_joined(value)}]",
    dict: _dict,
    set: _set,
    frozenset: _set,
    PurePosixPath: _path,
    PosixPath: _path,
    PureWindowsPath: _path,
    WindowsPath: _path,
}

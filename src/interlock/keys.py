"""Keys: a value as text that is typed, readable, the same everywhere, and different for different values.

``canonical({"k": (1, 0.1)})`` is ``{'k': (1, 0.1)}``. Types count: 1, 1.0, True and "1" are four keys, and a list is
not the tuple of its items. Nothing is rounded: a float is written so that it reads back to the same bits. The order of
a dictionary or a set does not count. An array is its type, its shape and a digest of its content. The text is ASCII and
does not depend on the process, the host or the hash seed.

What has no text of its own is refused: a key that leaves out a part of its value would find another value's entry.

Layer: bottom; imports nothing of ours.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from enum import Enum, Flag
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any


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

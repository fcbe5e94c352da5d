"""Codecs: a value as bytes and back, never through pickle unless that is asked for.

==============  ======================================================================================
codec           carries
==============  ======================================================================================
``bytes``       bytes
``text``        str
``npy``         numpy arrays, in numpy's own file format; they come back read-only
``scalar``      numpy scalars
``npz``         dict of str to numpy arrays, in numpy's own archive format; read-only too
``json``        None, numbers, and lists, tuples, dictionaries of what JSON and `interlock.values` carry
``arrow``       pyarrow tables
``frame``       pandas data frames, as an Arrow stream
``series``      pandas series, as an Arrow stream
``tensor``      torch tensors, as safetensors; they come back on the CPU
``tensors``     dict of str to torch tensors
``pickle``      anything that pickles, if ``allow_pickle``
==============  ======================================================================================

The codec is chosen by the value's exact type, so that what comes back is of the type that went in. Arrays are copied
neither when encoded nor when decoded: a decoded array lies in the buffer it was decoded from, which may be a mapped
file. numpy, pandas, pyarrow and torch are only touched if the value is theirs.

Layer: above `values`.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from interlock import values
from interlock.codecs import arrays, tables

ERROR = "error"  # in place of a codec: the entry is an error, as text
Buffer = bytes | memoryview | mmap.mmap


class Encoded(NamedTuple):
    """A value as bytes: the name of its codec, and buffers that follow one another, perhaps the value's own memory."""

    codec: str
    buffers: list[bytes | memoryview]

    @property
    def length(self) -> int:
        """How many bytes it is."""
        return sum([memoryview(buffer).nbytes for buffer in self.buffers])


def encode(value: Any, *, allow_pickle: bool = False) -> Encoded:
    """The value as bytes.

    Args:   allow_pickle: pickle what fits no other codec. Loading a pickle runs whatever code its writer put into it:
            allow it only where nobody else can write.
    Raises: TypeError: the value fits no codec, and what to do about it.
    Cost:   nothing large is copied, but for arrays whose memory has gaps, tables and tensors.
    """
    try:
        codec = _codec_of(value)
        return Encoded(codec, _ENCODERS[codec](value))
    except TypeError:
        if not allow_pickle:
            raise
    import pickle

    return Encoded("pickle", [pickle.dumps(value, protocol=5)])


def decode(codec: str, payload: Buffer, *, allow_pickle: bool = False) -> Any:
    """The value back from its bytes; arrays and tables stay in `payload`.

    Raises: ValueError: the bytes are not of this codec, or it is unknown, or a pickle and not allowed.
            ImportError: the library that the value belongs to is not installed.
    """
    if codec == "pickle" and not allow_pickle:
        raise ValueError("it is a pickle, which may run code when loaded, and allow_pickle is False")
    decoder = _DECODERS.get(codec)
    if decoder is None:
        raise ValueError(f"there is no codec {codec!r} in this version of interlock")
    try:
        return decoder(payload)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"it cannot be decoded as {codec}: {type(error).__name__}: {error}") from error


def _codec_of(value: Any) -> str:
    kind = type(value)
    if kind is dict and value and all(type(name) is str for name in value):
        for library, member, codec in (("numpy", "ndarray", "npz"), ("torch", "Tensor", "tensors")):
            wanted = getattr(sys.modules.get(library), member, None)
            if wanted is not None and all(type(item) is wanted for item in value.values()):
                return codec
    package = kind.__module__.partition(".")[0]
    found = _CODECS.get((package, kind.__name__))
    if found is None and package == "numpy" and isinstance(value, sys.modules["numpy"].generic):
        return "scalar"
    if found is None:
        raise _refused(kind)
    return found


def _refused(kind: type, why: str = "") -> TypeError:
    return TypeError(
        f"a {kind.__module__}.{kind.__qualname__} cannot be stored{why}: return numbers, strings, bytes, lists, tuples "
        "or dictionaries of them, a numpy array or a dictionary of arrays, a data frame, table or tensor; "
        "or allow_pickle=True, where nobody else can write"
    )


def _encode_json(value: Any) -> list[bytes | memoryview]:
    try:
        return [values.encode(value).encode()]
    except TypeError as error:
        raise _refused(type(value), f" ({str(error).partition(':')[0]})") from error


def _decode_pickle(payload: Buffer) -> Any:
    import pickle

    return pickle.loads(payload)


_CODECS = {
    **{("builtins", name): "json" for name in ("NoneType", "bool", "int", "float", "list", "tuple", "dict")},
    ("builtins", "bytes"): "bytes",
    ("builtins", "str"): "text",
    ("numpy", "ndarray"): "npy",
    ("numpy", "memmap"): "npy",
    ("pyarrow", "Table"): "arrow",
    ("pandas", "DataFrame"): "frame",
    ("pandas", "Series"): "series",
    ("torch", "Tensor"): "tensor",
}
_ENCODERS: dict[str, Callable[[Any], list[bytes | memoryview]]] = {
    "bytes": lambda value: [value],
    "text": lambda value: [value.encode("utf-8", "surrogatepass")],
    "json": _encode_json,
    "npy": arrays.encode_npy,
    "scalar": arrays.encode_scalar,
    "npz": arrays.encode_npz,
    "arrow": tables.encode_arrow,
    "frame": tables.encode_frame,
    "series": tables.encode_series,
    "tensor": tables.encode_tensor,
    "tensors": tables.encode_tensors,
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "bytes": bytes,
    "text": lambda payload: str(payload, "utf-8", "surrogatepass"),
    "json": lambda payload: values.decode(str(payload, "utf-8")),
    "npy": arrays.decode_npy,
    "scalar": arrays.decode_scalar,
    "npz": arrays.decode_npz,
    "arrow": tables.decode_arrow,
    "frame": tables.decode_frame,
    "series": tables.decode_series,
    "tensor": tables.decode_tensor,
    "tensors": tables.decode_tensors,
    "pickle": _decode_pickle,
}

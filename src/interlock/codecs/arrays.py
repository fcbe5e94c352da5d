"""Arrays as bytes in numpy's own formats, without copying them in either direction.

``npy`` is a header, then the memory of the array; ``npz`` is a zip archive of uncompressed such members. Both are read
by `numpy.load`. Arrays begin at multiples of 64 bytes, in an archive too, so that a mapped file serves vector units.

`numpy.load` takes 25 microseconds for the smallest array, most of it to parse the header. Equal headers are parsed
once; then a header is looked up, and the array is laid over the buffer.

Layer: under `codecs`. numpy is imported when an array is met.
"""

from __future__ import annotations

import ast
import functools
import io
import mmap
import struct
import zipfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import dtype, ndarray

ALIGNMENT = 64
_MAGIC = b"\x93NUMPY"
_USUAL_HEADER = 128
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name
_PADDING_FIELD = 0xD935  # the id that archive tools give to alignment padding
_LARGE = 0x7FFF0000  # members above get 64-bit sizes

Pieces = list[bytes | memoryview]


def encode_npy(array: ndarray[Any, Any]) -> Pieces:
    """The array as header and memory. Raises `TypeError` for one of objects, and for types that numpy cannot name."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    header = _header(array.dtype, fortran, array.shape)
    if not array.nbytes:
        return [header]
    flat = array.ravel(order="K" if fortran else "C")  # a copy only if the memory has gaps
    memory: Any = flat.view("u1")
    return [header, memoryview(memory)]


def encode_scalar(scalar: Any) -> Pieces:
    """A numpy scalar, as an array without dimensions."""
    import numpy

    return encode_npy(numpy.asarray(scalar))


def encode_npz(arrays: dict[str, ndarray[Any, Any]]) -> Pieces:
    """A dictionary of arrays as an archive; the members are in its order."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:  # type: ignore[call-overload]
        for name, array in arrays.items():
            pieces = encode_npy(array)
            member = zipfile.ZipInfo(f"{name}.npy")
            if member.filename != f"{name}.npy":
                raise TypeError(f"{name!r} cannot be a name in an archive: leave out NUL")
            large = array.nbytes > _LARGE
            before = sink.size + _LOCAL_HEADER + len(member.filename.encode()) + (24 if large else 4)
            padding = -before % ALIGNMENT
            member.extra = struct.pack("<HH", _PADDING_FIELD, padding) + bytes(padding)
            with archive.open(member, "w", force_zip64=large) as file:
                for piece in pieces:
                    file.write(piece)
    return sink.pieces


class _Sink:
    """A file that only collects what is written to it."""

    def __init__(self) -> None:
        self.pieces: Pieces = []
        self.size = 0

    def write(self, piece: bytes | memoryview) -> int:
        self.pieces.append(piece)
        self.size += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back."""


@functools.lru_cache(1024)
def _header(kind: dtype[Any], fortran: bool, shape: tuple[int, ...]) -> bytes:
    """The header of an array, as `numpy.lib.format` describes it."""
    from numpy.lib import format as npy

    if kind.kind not in "biufcmMSUV" or kind.hasobject or npy.descr_to_dtype(npy.dtype_to_descr(kind)) != kind:
        raise TypeError(
            f"an array of dtype {kind} cannot be stored, because its memory is objects or numpy's file format has no "
            "name for it: convert it to numbers or to text (dtype 'U'), or store a list"
        )
    described = {"descr": npy.dtype_to_descr(kind), "fortran_order": fortran, "shape": shape}
    text, version = repr(described).encode("utf-8"), 1
    if not text.isascii():
        version = 3
    elif len(text) > 0xFF00:
        version = 2
    prefix = 10 if version == 1 else 12
    text += b" " * (-(prefix + len(text) + 1) % ALIGNMENT) + b"\n"
    return _MAGIC + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def decode_npy(payload: bytes | memoryview | mmap.mmap, start: int = 0) -> ndarray[Any, Any]:
    """The array that lies in a buffer from `start` on; read-only. Raises `ValueError` if there is none."""
    head = bytes(payload[start : start + _USUAL_HEADER])
    if head[8:10] != b"\x76\0":  # of other length than nearly all
        length = 10 + int.from_bytes(head[8:10], "little") if head[6:7] == b"\1" else 0
        length = length or 12 + int.from_bytes(head[8:12], "little")
        head = bytes(payload[start : start + length])
    lay, shape, kind, order = _layout(head)
    array: ndarray[Any, Any] = lay(shape, kind, payload, start + len(head), None, order)
    array.setflags(write=False)
    return array


@functools.lru_cache(4096)
def _layout(head: bytes) -> tuple[Any, tuple[int, ...], dtype[Any], str]:
    """The array class, shape, type and order from the whole header of an array."""
    from numpy import ndarray
    from numpy.lib import format as npy

    if head[:6] != _MAGIC or head[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("it does not begin like an array")
    prefix = 10 if head[6] == 1 else 12
    told = ast.literal_eval(head[prefix:].decode("utf-8" if head[6] == 3 else "latin-1"))
    kind = npy.descr_to_dtype(told["descr"])
    if kind.hasobject:
        raise ValueError("an array of objects is a pickle")
    return ndarray, tuple(told["shape"]), kind, "F" if told["fortran_order"] else "C"


def decode_scalar(payload: bytes | memoryview | mmap.mmap) -> Any:
    """The numpy scalar back."""
    return decode_npy(payload)[()]


def decode_npz(payload: bytes | memoryview | mmap.mmap) -> dict[str, ndarray[Any, Any]]:
    """The dictionary of arrays back; each lies in the buffer."""
    file: Any = payload if isinstance(payload, mmap.mmap) else io.BytesIO(payload)
    view = memoryview(payload)
    with zipfile.ZipFile(file) as archive:
        return dict(_members(view, archive.infolist()))


def _members(view: memoryview, members: Iterable[zipfile.ZipInfo]) -> Iterable[tuple[str, ndarray[Any, Any]]]:
    for member in members:
        at = member.header_offset
        name, extra = struct.unpack_from("<HH", view, at + 26)
        yield member.filename.removesuffix(".npy"), decode_npy(view, at + _LOCAL_HEADER + name + extra)

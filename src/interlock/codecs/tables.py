"""Data frames, tables and tensors as bytes, in the formats of Arrow and of safetensors.

Both formats are data only: reading them runs nobody's code. pandas, pyarrow, safetensors and torch are imported when
one of their values is met; a missing one gives the line that installs it.

Layer: under `codecs`.
"""

from __future__ import annotations

import importlib
import mmap
from typing import Any

from interlock import values

Payload = bytes | memoryview | mmap.mmap
_NAME = b"interlock.name"


def encode_arrow(table: Any) -> list[bytes | memoryview]:
    """A pyarrow table as a stream."""
    pyarrow = _library("pyarrow")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return [memoryview(sink.getvalue())]


def encode_frame(frame: Any) -> list[bytes | memoryview]:
    """A data frame with its index. Raises `TypeError` for columns of Python objects other than text and bytes."""
    return encode_arrow(_table(frame))


def encode_series(series: Any) -> list[bytes | memoryview]:
    """A series with its index and its name."""
    try:
        name = values.encode(series.name).encode()
    except TypeError as error:
        raise TypeError(f"the name of a series, {series.name!r}, cannot be stored: use text or a number") from error
    table = _table(series.to_frame("values"))
    return encode_arrow(table.replace_schema_metadata({**(table.schema.metadata or {}), _NAME: name}))


def _table(frame: Any) -> Any:
    pandas, pyarrow = _library("pandas"), _library("pyarrow")
    if frame.columns.inferred_type.startswith("mixed"):
        raise TypeError("the column names of a data frame are of several types, and would all come back as text")
    for number, kind in enumerate(frame.dtypes):
        content = pandas.api.types.infer_dtype(frame.iloc[:, number], skipna=True) if kind.name == "object" else ""
        if content not in ("", "string", "bytes", "empty"):
            raise TypeError(
                f"the column {frame.columns[number]!r} of a data frame holds Python objects, which would not come "
                "back as they are: convert it to numbers, text or a category"
            )
    try:
        return pyarrow.Table.from_pandas(frame)
    except (ValueError, pyarrow.ArrowException) as error:
        raise TypeError(f"this data frame cannot be stored: {error}") from error


def decode_arrow(payload: Payload) -> Any:
    """The table back; its columns lie in the buffer."""
    pyarrow = _library("pyarrow")
    with pyarrow.ipc.open_stream(pyarrow.py_buffer(payload)) as stream:
        return stream.read_all()


def decode_frame(payload: Payload) -> Any:
    """The data frame back; it may be changed, and that changes nobody else's."""
    _library("pandas")
    return decode_arrow(payload).to_pandas()


def decode_series(payload: Payload) -> Any:
    """The series back."""
    _library("pandas")
    table = decode_arrow(payload)
    return table.to_pandas()["values"].rename(values.decode(table.schema.metadata[_NAME].decode()))


def encode_tensor(tensor: Any) -> list[bytes | memoryview]:
    """One tensor."""
    return encode_tensors({"tensor": tensor})


def encode_tensors(tensors: dict[str, Any]) -> list[bytes | memoryview]:
    """A dictionary of tensors. Raises `TypeError` for those that carry gradients, and for sparse ones."""
    save = _library("safetensors.torch").save
    if any(tensor.requires_grad for tensor in tensors.values()):
        raise TypeError("a tensor with requires_grad cannot be stored, because its graph would be lost: detach() it")
    try:
        return [save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()})]
    except (RuntimeError, ValueError, KeyError) as error:
        raise TypeError(f"this tensor cannot be stored: {error}") from error


def decode_tensor(payload: Payload) -> Any:
    """The tensor back, on the CPU."""
    return decode_tensors(payload)["tensor"]


def decode_tensors(payload: Payload) -> Any:
    """The dictionary back. Tensors cannot be read-only, so they are copies."""
    return _library("safetensors.torch").load(bytes(payload))


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"this value needs {package}: pip install {package}", name=package) from error

"""Codecs: every value comes back as it was, without pickle and without copies of large arrays."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy
import pandas
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from interlock import codecs


def raw(value: Any, **options: Any) -> tuple[str, bytes]:
    """The codec of a value, and its bytes in one piece."""
    encoded = codecs.encode(value, **options)
    whole = b"".join(encoded.buffers)
    assert encoded.length == len(whole)
    return encoded.codec, whole


def back(value: Any) -> Any:
    """A value that went through its codec."""
    return codecs.decode(*raw(value))


PLAIN: list[tuple[str, Any]] = [
    ("json", None), ("json", True), ("json", 1), ("json", 0.1), ("json", [1, (2, b"x"), {"a": None}]), ("json", {}),
    ("json", {1: "a", (2,): "b"}), ("text", ""), ("text", "aé\udc80\n"), ("bytes", b""), ("bytes", b"\0\xff"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "value"), PLAIN)
def test_plain_values_come_back(codec: str, value: Any) -> None:
    """Numbers, text, bytes and structures of them come back equal and of the same type."""
    assert raw(value)[0] == codec
    assert back(value) == value
    assert type(back(value)) is type(value)


ARRAYS = [
    numpy.arange(6.0).reshape(2, 3), numpy.asfortranarray(numpy.arange(6).reshape(2, 3)), numpy.arange(20)[::3],
    numpy.array(5), numpy.zeros((0, 3)), numpy.zeros(3, "S0"), numpy.array(["a", "éé"]), numpy.array([True, False]),
    numpy.array(["2020", "NaT"], "M8[ns]"), numpy.array([1 + 2j]), numpy.arange(3, dtype=">i4"),
    numpy.array([(1, 2.0)], [("a", "i4"), ("bé", "f8")]),
    numpy.zeros(2, numpy.dtype([("a", "i1"), ("b", "f8")], align=True)),
    numpy.zeros(1, [(f"field {number}", "f8", (2,)) for number in range(3000)]), numpy.broadcast_to(1.5, (2, 2)),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}"[:40])
def test_arrays_come_back_read_only(array: numpy.ndarray) -> None:
    """An array keeps dtype, shape and content; it cannot be written to; numpy itself reads the same bytes."""
    codec, whole = raw(array)
    found = codecs.decode(codec, whole)
    assert codec == "npy"
    assert found.dtype == array.dtype
    others = numpy.load(io.BytesIO(whole), max_header_size=10**6)
    for one in (found, others):
        assert numpy.array_equal(one, array, equal_nan=array.dtype.kind == "M")
    with pytest.raises(ValueError, match="WRITEABLE"):
        found.setflags(write=True)


@given(npst.arrays(npst.scalar_dtypes() | npst.array_dtypes(max_size=3), npst.array_shapes(min_dims=0, min_side=0)))
def test_any_array_comes_back(array: numpy.ndarray) -> None:
    """Whatever numbers an array is of, its bytes, dtype and shape come back."""
    found = back(array)
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_arrays_are_not_copied() -> None:
    """The encoded array is the array's own memory, and the decoded one lies in the buffer it came from."""
    array = numpy.arange(1000)
    encoded = codecs.encode(array)
    assert numpy.shares_memory(numpy.frombuffer(encoded.buffers[1], "u1"), array)
    whole = b"".join(encoded.buffers)
    assert numpy.shares_memory(codecs.decode("npy", whole), numpy.frombuffer(whole, "u1"))


@pytest.mark.parametrize(
    "scalar",
    [numpy.float32(0.1), numpy.int8(-1), numpy.bool_(1), numpy.str_("é"), numpy.datetime64("2020"), numpy.complex64(1)],
)
def test_scalars_come_back_as_scalars(scalar: Any) -> None:
    """A numpy scalar is neither an array nor a Python number afterwards."""
    assert raw(scalar)[0] == "scalar"
    assert back(scalar) == scalar
    assert type(back(scalar)) is type(scalar)


def test_dictionaries_of_arrays_come_back() -> None:
    """Order, names and arrays come back; numpy reads the archive; each array is aligned in it and read-only."""
    arrays = {
        "a": numpy.arange(3),
        "é/ü": numpy.zeros((2, 3), order="F"),
        "": numpy.array("x"),
        "b": numpy.arange(10.0),
    }
    codec, whole = raw(arrays)
    found = codecs.decode(codec, whole)
    assert codec == "npz"
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert numpy.array_equal(found[name], array)
        assert not found[name].flags.writeable
        assert found[name].flags.aligned
        start = numpy.frombuffer(whole, "u1").ctypes.data
        assert (found[name].ctypes.data - start) % 64 == 0
    with numpy.load(io.BytesIO(whole)) as loaded:
        assert numpy.array_equal(loaded["b"], arrays["b"])


FRAMES = [
    pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=["i", "j"]),
    pandas.DataFrame({"t": pandas.date_range("2020", periods=3, tz="UTC"), "c": pandas.Categorical(["u", "v", "u"])}),
    pandas.DataFrame({0: [1.5], 1: [None]}, index=pandas.MultiIndex.from_tuples([("a", 1)], names=["x", "y"])),
    pandas.DataFrame(),
    pandas.DataFrame({"a": []}),
]


@pytest.mark.parametrize("frame", FRAMES, ids=range(len(FRAMES)))
def test_data_frames_come_back(frame: pandas.DataFrame) -> None:
    """Columns, their types and the index come back, and may be changed."""
    assert raw(frame)[0] == "frame"
    found = back(frame)
    pandas.testing.assert_frame_equal(found, frame, check_column_type=False)
    found["new"] = 1


@pytest.mark.parametrize("name", [None, "n", ("t", 1)])
def test_series_come_back(name: Any) -> None:
    """A series keeps its name, whatever kind of name, its index and its type."""
    series = pandas.Series([1.5, 2.5], index=["a", "b"], name=name)
    pandas.testing.assert_series_equal(back(series), series)


def test_tables_come_back() -> None:
    """A pyarrow table comes back with its schema."""
    table = pyarrow.table({"a": [1, None], "b": [[1], []]})
    assert raw(table)[0] == "arrow"
    assert back(table).equals(table, check_metadata=True)


def test_tensors_come_back() -> None:
    """A tensor and a dictionary of them, with gaps and with shared memory, come back equal and may be changed."""
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert raw(tensor.T)[0] == "tensor"
    assert torch.equal(back(tensor.T), tensor.T)
    several = {"a": tensor, "b": tensor[0], "c": torch.zeros(2, dtype=torch.bfloat16), "d": torch.tensor(1)}
    assert raw(several)[0] == "tensors"
    found = back(several)
    assert all(torch.equal(found[name], several[name]) and found[name].dtype == several[name].dtype for name in several)
    found["a"] += 1


REFUSED = [
    object(), {1, 2}, lambda: 0, bytearray(b"x"), numpy.array([None]), numpy.ma.array([1]), (numpy.arange(3), 1),
    {"a": numpy.array([None])}, {"a": numpy.arange(3), "b": 1}, numpy.array(["a"], numpy.dtypes.StringDType()),
    pandas.DataFrame({"a": [(1, 2)]}), pandas.DataFrame({"a": [object()]}), pandas.DataFrame({1: [1], "a": [2]}),
    pandas.Series([1], name=object), torch.zeros(1, requires_grad=True), torch.nn.Linear(1, 1),
    torch.eye(2).to_sparse(),
]  # fmt: skip


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_would_not_come_back_is_refused(value: Any) -> None:
    """A value that no codec brings back whole is a TypeError that says why or what to do."""
    with pytest.raises(TypeError, match=r"cannot be stored|would not come back|as text"):
        codecs.encode(value)


def test_pickle_only_if_asked_for() -> None:
    """What fits no codec is pickled where that is allowed, and a pickle is not even looked at where it is not."""
    value = {1, 2}
    codec, whole = raw(value, allow_pickle=True)
    assert codec == "pickle"
    assert codecs.decode(codec, whole, allow_pickle=True) == value
    with pytest.raises(ValueError, match="allow_pickle"):
        codecs.decode(codec, whole)
    assert raw([1], allow_pickle=True)[0] == "json"


def test_an_array_of_objects_is_never_loaded() -> None:
    """A hand-made array file whose dtype is object is refused: numpy would unpickle it."""
    file = io.BytesIO()
    numpy.save(file, numpy.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        codecs.decode("npy", file.getvalue())


@pytest.mark.parametrize(
    "codec", ["text", "json", "npy", "scalar", "npz", "arrow", "frame", "series", "tensor", "tensors"]
)
@given(st.binary(max_size=300))
def test_garbage_is_a_value_error(codec: str, garbage: bytes) -> None:
    """Bytes that are not of the codec give a ValueError and nothing else, unless they happen to mean something."""
    try:
        codecs.decode(codec, b"\xff\x93NUMPY\1\0" + garbage)
    except ValueError:
        return
    assert codec not in ("npy", "npz", "scalar", "tensor")


def test_codecs_import_nothing_heavy() -> None:
    """Plain values go through without any third party's package."""
    program = "import sys; from interlock import codecs; codecs.encode([1]); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "pandas", "pyarrow", "torch"} & set(loaded)


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a table where pyarrow is not installed gives the line that installs it."""
    whole = raw(pyarrow.table({"a": [1]}))[1]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        codecs.decode("arrow", whole)

"""Flower records, made cheap to pass around in one machine and exact to keep on disk.

Flower's `Array` holds bytes: it serialises when it is made and parses when it is read. `LazyArray` is an `Array` that holds
an ndarray and serialises only when somebody asks for bytes (a wire, a mod, a test), with the same bytes as the original.

`WeightedMean` is the one place where replies are averaged. The mean of weighted means is the weighted mean, so workers may
average fixed chunks of a cohort, the server may average the chunks, and any Flower strategy that averages may average that.
"""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from .errors import PayloadError, StateError

WEIGHT_KEY = "num-examples"  # Flower's convention: the metric that weights a reply in a mean


# Arrays from Ray's object store are read-only; torch warns that it could write to them. Nothing here does.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)


@lru_cache(maxsize=64)
def _dtype_name(dtype: np.dtype) -> str:
    return str(dtype)  # slow in NumPy, and needed for every array of every message


R = TypeVar("R", ArrayRecord, MetricRecord, ConfigRecord)


def of_kind(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Return a content's records of one kind; Flower's `array_records` and its like cost more than handling an update."""
    return {name: record for name, record in content.items() if isinstance(record, kind)}


class LazyArray(Array):
    """A Flower `Array` around an ndarray, serialised when its `data` is first read.

    Parameters
    ----------
    ndarray : numpy.ndarray
        Kept, not copied: whoever changes it changes this array. Any strides; the bytes are always in C order.
    """

    ndarray: np.ndarray

    def __init__(self, ndarray: np.ndarray) -> None:
        fields = {
            "ndarray": ndarray,
            "dtype": _dtype_name(ndarray.dtype),
            "shape": tuple(ndarray.shape),
            "stype": "numpy.ndarray",
        }
        self.__dict__.update(fields, _is_dirty=True)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes Flower would send: NumPy's .npy format."""
        if "_data" not in self.__dict__:
            self.__dict__["_data"] = Array(np.asarray(self.ndarray, order="C")).data
        return self.__dict__["_data"]

    def numpy(self) -> np.ndarray:
        """Return a copy the caller may write to, as Flower's `Array` does; `view` reads without one."""
        return self.ndarray.copy()

    def deflate(self) -> bytes:
        """Return what the equivalent plain `Array` puts on Flower's wire (the type's name is part of it)."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return (self.dtype, self.shape, self.stype, self.data) == (other.dtype, other.shape, other.stype, other.data)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyArray, (self.ndarray,)


def view(array: Array) -> np.ndarray:
    """Return an array's numbers for reading, without a copy where there are some."""
    return array.ndarray if isinstance(array, LazyArray) else array.numpy()


def array_record(arrays: Mapping[str, np.ndarray | torch.Tensor]) -> ArrayRecord:
    """Wrap arrays or tensors, by name, without copying or serialising them."""
    record = ArrayRecord()
    for key, value in arrays.items():
        record[key] = LazyArray(value.detach().numpy() if isinstance(value, torch.Tensor) else value)
    return record


def tensors(record: ArrayRecord) -> dict[str, torch.Tensor]:
    """View the arrays of a record as tensors (read-only where the array is)."""
    return {key: torch.from_numpy(view(array)) for key, array in record.items()}


def lazy(content: RecordDict) -> RecordDict:
    """Return the same content with every array lazy; array bytes are parsed once, nothing else is copied."""
    return RecordDict(
        {
            name: array_record({k: view(a) for k, a in record.items()}) if isinstance(record, ArrayRecord) else record
            for name, record in content.items()
        }
    )


def private_copy(content: RecordDict, arrays: bool = False) -> RecordDict:
    """Copy a content so that changing the copy's records leaves the original alone.

    Parameters
    ----------
    arrays : bool
        Copy the numbers too. Without it the copies share ndarrays, which receivers treat as read-only.
    """

    def copy(record: Any) -> Any:
        if not isinstance(record, ArrayRecord):
            return type(record)(dict(record))
        same = ArrayRecord()
        for key, array in record.items():
            same[key] = LazyArray(array.numpy()) if arrays else array
        return same

    return RecordDict({name: copy(record) for name, record in content.items()})


@lru_cache(maxsize=4096)
def _npy_header_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    header = io.BytesIO()
    probe = np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, [0] * len(shape))
    fields = np.lib.format.header_data_from_array_1_0(probe) | {"fortran_order": False}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.tell()


def array_bytes(content: RecordDict) -> int:
    """Count the bytes of all arrays in a content as `ArrayRecord.count_bytes` does, serialising nothing.

    Keys, .npy headers and numbers count; Flower's own message framing, a few hundred bytes, does not.
    """
    total = 0
    for record in of_kind(content, ArrayRecord).values():
        for key, array in record.items():
            total += len(key)
            if isinstance(array, LazyArray):
                total += _npy_header_bytes(array.dtype, array.shape) + array.ndarray.nbytes
            else:
                total += len(array.data)
    return total


Layout = dict[str, tuple[str, tuple[int, ...]]]


def layout(arrays: ArrayRecord) -> Layout:
    """Return what a receiver may expect of an update: dtype and shape by key."""
    return {key: (array.dtype, tuple(array.shape)) for key, array in arrays.items()}


def as_laid_out(arrays: ArrayRecord, expected: Layout) -> ArrayRecord:
    """Return the arrays in the expected dtypes (some of Flower's strategies compute, and reply, in float64).

    Arrays of which nothing is expected, such as an ensemble's members, stay as they are.
    """
    known = {key: expected[key][0] for key in arrays if key in expected}
    return array_record({key: view(array).astype(known.get(key, array.dtype), copy=False) for key, array in arrays.items()})


def check_update(content: RecordDict, expected: Layout | None) -> None:
    """Refuse an update that is not one ArrayRecord and one MetricRecord of the expected layout, all finite.

    Parameters
    ----------
    expected : Layout, optional
        None where only the receiver knows what it expects.

    Raises
    ------
    PayloadError
        Naming the first array that is missing, unexpected, of another dtype or shape, or not finite.
    """
    records, metric_records = of_kind(content, ArrayRecord), of_kind(content, MetricRecord)
    if len(records) != 1 or len(metric_records) != 1:
        raise PayloadError("an update must hold exactly one ArrayRecord and one MetricRecord")
    (metrics,) = metric_records.values()
    if not isinstance(metrics.get(WEIGHT_KEY), (int, float)) or not metrics[WEIGHT_KEY] > 0:  # type: ignore[operator]
        raise PayloadError(f"the update's {WEIGHT_KEY!r} is {metrics.get(WEIGHT_KEY)!r}; it must be a number above 0")
    (record,) = records.values()
    if expected is not None:
        _check_layout(record, expected)
    for key, array in record.items():
        if array.dtype.startswith(("float", "complex")) and not np.isfinite(view(array).sum(dtype=np.float64)):
            raise PayloadError(f"array {key!r} holds NaN or infinity")


def _check_layout(record: ArrayRecord, expected: Layout) -> None:
    if odd := sorted(record.keys() ^ expected.keys()):
        where = "missing from" if odd[0] in expected else "unexpected in"
        raise PayloadError(f"array {odd[0]!r} is {where} the update ({len(odd)} such keys)")
    for key, array in record.items():
        if (array.dtype, tuple(array.shape)) != expected[key]:
            dtype, shape = expected[key]
            raise PayloadError(f"array {key!r} is {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}")


class WeightedMean:
    """A running mean of contents, weighted by their `num-examples`: arrays, and metrics beside them.

    Memory is one sum, whatever the number of contents. Sums are float32 over what is added, in the order it is added.
    """

    def __init__(self) -> None:
        self.weight: float = 0
        self._arrays: dict[str, torch.Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._metrics: dict[str, float] = {}
        self._names = ("arrays", "metrics")

    def add(self, content: RecordDict) -> None:
        """Add one content that `check_update` would pass."""
        ((arrays_name, arrays),) = of_kind(content, ArrayRecord).items()
        ((metrics_name, metrics),) = of_kind(content, MetricRecord).items()
        self._names = (arrays_name, metrics_name)
        weight = metrics[WEIGHT_KEY]
        self.weight += weight  # type: ignore[operator]
        for key, tensor in tensors(arrays).items():
            if key in self._arrays:
                self._arrays[key].add_(tensor, alpha=weight)  # type: ignore[arg-type]
            else:  # counters and other integers are summed in float64 and rounded
                self._dtypes[key] = tensor.dtype
                self._arrays[key] = (tensor if tensor.is_floating_point() else tensor.double()).mul(weight)  # type: ignore[arg-type]
        for key, value in metrics.items():
            if key != WEIGHT_KEY:
                self._metrics[key] = self._metrics.get(key, 0.0) + value * weight  # type: ignore[operator]

    def content(self) -> RecordDict:
        """Return the mean so far as one content with the summed weight; the running sum is used up."""
        arrays = {key: _as(total.div_(self.weight), self._dtypes[key]) for key, total in self._arrays.items()}
        metrics: dict[str, Any] = {
            WEIGHT_KEY: self.weight,
            **{key: total / self.weight for key, total in self._metrics.items()},
        }
        return RecordDict({self._names[0]: array_record(arrays), self._names[1]: MetricRecord(metrics)})


def _as(mean: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return mean if mean.dtype == dtype else mean.round().to(dtype)


def to_bytes(content: RecordDict) -> bytes:
    """Serialise a content as one safetensors blob: arrays as named tensors, all else as JSON in its header."""
    blobs: dict[str, np.ndarray] = {}
    header: dict[str, Any] = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            header[name] = {"kind": "arrays", "keys": list(record)}
            blobs.update({f"{name}/{key}": np.asarray(view(array), order="C") for key, array in record.items()})
        else:
            kind = "metrics" if isinstance(record, MetricRecord) else "config"
            header[name] = {"kind": kind, "values": {key: _to_json(value) for key, value in record.items()}}
    return safetensors.numpy.save(blobs, {"fedcosim.records.v1": json.dumps(header)})


def from_bytes(blob: bytes) -> RecordDict:
    """Undo `to_bytes`.

    Raises
    ------
    StateError
        If the blob is not one that `to_bytes` wrote.
    """
    try:
        header_bytes = int.from_bytes(blob[:8], "little")
        metadata = json.loads(blob[8 : 8 + header_bytes])["__metadata__"]
        arrays, header = safetensors.numpy.load(blob), json.loads(metadata["fedcosim.records.v1"])
    except Exception as error:
        raise StateError(f"not a fedcosim record file: {error}") from None
    content = RecordDict()
    for name, record in header.items():
        if record["kind"] == "arrays":
            content[name] = array_record({key: arrays[f"{name}/{key}"] for key in record["keys"]})
        else:
            values = {key: _from_json(value) for key, value in record["values"].items()}
            content[name] = MetricRecord(values) if record["kind"] == "metrics" else ConfigRecord(values)
    return content


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return [_to_json(v) for v in value] if isinstance(value, list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return [_from_json(v) for v in value] if isinstance(value, list) else value

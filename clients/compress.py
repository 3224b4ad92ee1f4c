"""Models compressed on their way between server and clients: `[upload]` and `[download]`.

An encoded model is one uint8 array, so that whoever counts the bytes of arrays counts what a network would carry. The client
encodes its update in a Flower mod. It is decoded as soon as it arrives, in the worker or on the server, before anything looks
into it: averages, strategies and checks only ever see models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn
from torch.nn import functional as F

from .. import compression
from ..compression import Base, Calibration, Codec, DownloadOptions, Encoded, UploadOptions
from ..core.errors import PayloadError
from ..core.records import Layout, array_bytes, array_record, of_kind, tensors, view
from ..core.seeds import torch_stream

if TYPE_CHECKING:
    from .workbench import Workbench

BLOB = "fedcosim.encoded"  # the one array of an encoded model
UPLOADED = "fedcosim.upload"  # the record of a reply that says what encoding it cost and lost
STATE = "upload"  # the record of a client's state that its codec keeps


@dataclass(frozen=True)
class Uploaded:
    """What encoding one update cost and lost.

    Attributes
    ----------
    dense_bytes : int
        What the update would have taken uncompressed.
    error : float
        Norm of what was lost over that of what was to be encoded.
    encode_s, decode_s : float
        At the client, and where it arrived.
    """

    dense_bytes: int = 0
    error: float = 0.0
    encode_s: float = 0.0
    decode_s: float = 0.0

    def to_record(self) -> ConfigRecord:
        """Return it as a record of a reply."""
        return ConfigRecord(dict(vars(self)))

    @classmethod
    def of(cls, content: RecordDict) -> Uploaded | None:
        """Return what a reply tells, if anything."""
        return cls(**content[UPLOADED]) if UPLOADED in content else None  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Wire:
    """How models travel in one experiment; both ends have an equal one.

    Parameters
    ----------
    shared : Layout
        What the server broadcasts.
    upload : UploadOptions, optional
        How updates are compressed; None: not at all.
    download : DownloadOptions, optional
        Likewise broadcasts.
    """

    shared: Layout
    upload: UploadOptions | None = None
    download: DownloadOptions | None = None

    @cached_property
    def up(self) -> Codec | None:
        """What encodes updates."""
        return self.upload.build() if self.upload else None

    @cached_property
    def down(self) -> Codec | None:
        """What encodes broadcasts."""
        return self.download.build() if self.download else None

    def broadcast(self, content: RecordDict, seed: int, *path: str | int) -> tuple[RecordDict, Encoded | None]:
        """Encode the model in what the server is about to send; random numbers come from `seed` and `path`."""
        if self.down is None:
            return content, None
        ((name, arrays),) = of_kind(content, ArrayRecord).items()
        context = compression.Context(generator=torch_stream(seed, "download", *path))
        encoded = self.down.encode(tensors(arrays), context)
        return RecordDict({**content, name: _sealed(encoded.blob)}), encoded

    def opened(self, content: RecordDict) -> RecordDict:
        """Decode the model in what a client was sent, where it still is encoded.

        Raises
        ------
        PayloadError
            If it is not one by this wire's codec and layout.
        """
        if self.down is None:
            return content
        records = of_kind(content, ArrayRecord).items()
        decoded = {name: array_record(self.down.decode(_blob(a), _torch(self.shared))) for name, a in records if BLOB in a}
        return RecordDict({**content, **decoded})

    def decoded(self, content: RecordDict, sent: RecordDict, expected: Layout) -> RecordDict:
        """Decode the update in a client's reply.

        Parameters
        ----------
        sent : RecordDict
            What the client was sent, opened.
        expected : Layout
            What the update must look like.

        Raises
        ------
        PayloadError
            If it is not encoded, or not so by this wire's codec, in that layout, relative to what was sent.
        """
        if self.up is None:
            return content
        started = time.perf_counter()
        records = of_kind(content, ArrayRecord)
        if len(records) != 1:
            raise PayloadError("an update must hold exactly one ArrayRecord")
        ((name, arrays),) = records.items()
        update = self.up.decode(_blob(arrays), _torch(expected), base_of(sent) if self.up.target == "delta" else None)
        told = Uploaded.of(content)
        if told is None:
            raise PayloadError(f"the update lacks the record {UPLOADED!r}")
        content = RecordDict({**content, name: array_record(update)})
        told = replace(told, dense_bytes=array_bytes(content), decode_s=time.perf_counter() - started)
        content[UPLOADED] = told.to_record()
        return content


def compress(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower mod: decode what the client was sent, let it work, encode its update."""
    from .workbench import workbench

    bench = workbench(context)
    message.content = bench.wire.opened(message.content)
    reply = call_next(message, context)
    if bench.wire.up is not None and message.metadata.message_type.startswith("train") and not reply.has_error():
        _encode(bench, bench.wire.up, message.content, reply.content, context)
    return reply


def _encode(bench: Workbench, codec: Codec, sent: RecordDict, content: RecordDict, context: Context) -> None:
    """Encode the update in a reply and keep in the client's state what the codec wants back the next time."""
    client = int(context.node_config["partition-id"])
    config = next(iter(of_kind(sent, ConfigRecord).values()), ConfigRecord())
    path = (int(config.get("server-round", 1)), client)  # type: ignore[arg-type]
    ((name, arrays),) = of_kind(content, ArrayRecord).items()
    kept = context.state.get(STATE)
    encoded = codec.encode(
        tensors(arrays),
        compression.Context(
            base=base_of(sent) if codec.target == "delta" else None,
            generator=torch_stream(bench.spec.seed, "upload", *path),
            calibration=_calibration(bench, *path) if codec.needs_calibration else None,
            state=tensors(kept) if isinstance(kept, ArrayRecord) else {},
            buffers=bench.buffers,
        ),
    )
    content[name] = _sealed(encoded.blob)
    content[UPLOADED] = Uploaded(error=encoded.report.error, encode_s=encoded.report.encode_s).to_record()
    if encoded.state:
        context.state[STATE] = array_record(encoded.state)
    elif STATE in context.state:
        del context.state[STATE]


def _calibration(bench: Workbench, number: int, client: int) -> Calibration:
    """Draw some of a client's training samples anew for a round, for its trained model."""
    x_NCHW, y_N = bench.data.train(client)
    assert bench.spec.upload is not None
    generator = torch_stream(bench.spec.seed, "calibration", number, client)
    drawn = torch.randperm(len(y_N), generator=generator)[: bench.spec.upload.calibration_samples]
    batch, labels = x_NCHW[drawn], y_N[drawn]

    def loss(module: nn.Module, x: Tensor) -> Tensor:
        return F.cross_entropy(module(x), labels)

    return Calibration(bench.model, [batch], loss)


class _Arrays:
    """The arrays of a content; equal to the very same arrays only."""

    def __init__(self, content: RecordDict) -> None:
        self.arrays: Mapping[str, Array] = {k: a for r in of_kind(content, ArrayRecord).values() for k, a in r.items()}

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.arrays.values())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Arrays) or self.arrays.keys() != other.arrays.keys():
            return False
        return all(array is other.arrays[key] for key, array in self.arrays.items())


def base_of(sent: RecordDict) -> Base:
    """Return what updates are relative to: the model that clients were sent, fingerprinted once for all of them."""
    return _base(_Arrays(sent))


@lru_cache(maxsize=1)
def _base(sent: _Arrays) -> Base:
    return Base({key: torch.from_numpy(view(array)) for key, array in sent.arrays.items()})


def _sealed(blob: bytes) -> ArrayRecord:
    return array_record({BLOB: np.frombuffer(blob, np.uint8)})


def _blob(arrays: ArrayRecord) -> memoryview:
    if list(arrays) != [BLOB]:
        raise PayloadError(f"the model is not encoded: it must be the one array {BLOB!r}")
    array = view(arrays[BLOB])
    if array.dtype != np.uint8 or array.ndim != 1:
        raise PayloadError(f"array {BLOB!r} is {array.dtype}{list(array.shape)}; it must be a row of bytes")
    return np.ascontiguousarray(array).data


def _torch(expected: Layout) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return a layout as codecs take it."""
    return {key: (shape, getattr(torch, dtype)) for key, (dtype, shape) in expected.items()}

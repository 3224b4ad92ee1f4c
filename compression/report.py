"""What an encoding cost and lost, in all and tensor by tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor.

    Attributes
    ----------
    how : str
        The codecs that took it and their numbers, ``"dense"``, or ``"= other"`` for a tensor that equals another one.
    error : float
        Frobenius norm of what was lost over that of what was to be encoded (delta and residual, or weights).
    note : str
        Why it travels as it is, where that is worth telling.
    """

    name: str
    dense_bytes: int
    encoded_bytes: int
    how: str
    error: float
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What an encoding cost and lost; `encoded_bytes` is the length of the blob, header and all."""

    codec: tuple[str, ...]
    target: str
    dense_bytes: int
    encoded_bytes: int
    error: float
    encode_s: float
    tensors: tuple[TensorReport, ...]

    @property
    def ratio(self) -> float:
        """Encoded over dense bytes."""
        return self.encoded_bytes / self.dense_bytes if self.dense_bytes else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "ratio": self.ratio}

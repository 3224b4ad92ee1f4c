"""How the tensors of an update are encoded: trees of stages and arrays, and what a blob's header tells of them.

For each tensor the header holds its name, dtype, shape, and one of: 0, in full; the name of an earlier tensor that it
equals; or a list of the stage's place in the chain, its numbers, and, where a later stage may have taken its parts, what
each of those is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.errors import PayloadError
from .codec import Stage
from .wire import Body, Layout, dtype_name


@dataclass
class Node:
    """How one tensor, or one part of one, is encoded: as it is (no stage), or by a stage into parts, which are nodes.

    Attributes
    ----------
    array : Tensor, optional
        What travels, where there is no stage.
    """

    stage: int | None = None
    meta: Mapping[str, int] = field(default_factory=dict)
    parts: Sequence[Node] = ()
    array: Tensor | None = None

    def arrays(self) -> Iterator[Tensor]:
        """Yield the arrays that travel, in the order in which they do."""
        if self.array is not None:
            yield self.array
        for part in self.parts:
            yield from part.arrays()

    def decoded(self, stages: Sequence[Stage], shape: tuple[int, ...]) -> Tensor:
        """Reconstruct the tensor."""
        if self.stage is None:
            assert self.array is not None
            return self.array
        stage = stages[self.stage]
        layouts = stage.layout(self.meta, shape)
        tensors = [part.decoded(stages, expected.shape) for part, expected in zip(self.parts, layouts, strict=True)]
        return stage.decode(self.meta, tensors, shape)

    def header(self, stages: Sequence[Stage]) -> Any:
        """Return what the blob's header tells: 0, or the stage, its numbers, and the parts that later stages could take."""
        if self.stage is None:
            return 0
        parts = [] if stages[self.stage].terminal else [part.header(stages) for part in self.parts if part.goes_on]
        return [self.stage, dict(self.meta), *([parts] if parts else [])]

    @property
    def goes_on(self) -> bool:
        """It is a part that later stages could take."""
        return self.array is None or self.array.dtype == torch.float32

    def how(self, names: Sequence[str]) -> str:
        """Describe it to a person."""
        if self.stage is None:
            return "dense"
        numbers = "".join(f" {key}={value}" for key, value in self.meta.items())
        inner = sorted({part.how(names) for part in self.parts if part.stage is not None})
        return f"{names[self.stage]}{numbers}" + "".join(f" > {how}" for how in inner)


class Reader:
    """Reads the nodes of one blob, whose header and body come from a stranger.

    Parameters
    ----------
    names, stages : sequence
        The receiver's chain.
    expected : Layout
        What the receiver expects.
    body : Body
        The blob's arrays.
    """

    def __init__(self, names: Sequence[str], stages: Sequence[Stage], expected: Layout, body: Body) -> None:
        self._names, self._stages, self._expected, self._body = names, stages, expected, body

    def read(self, entries: Sequence[Any]) -> dict[str, Node]:
        """Return the node of every expected tensor, in the expected order.

        Raises
        ------
        PayloadError
            If tensors are missing, unexpected or there twice, have another shape or dtype, or are encoded as no encoder does;
            or if the body has too few bytes for them, or too many.
        """
        nodes: dict[str, Node] = {}
        for entry in entries:
            name, told = self._entry(entry, nodes)
            nodes[name] = (
                self._twin(name, told, nodes) if isinstance(told, str) else self._node(told, name, *self._expected[name])
            )
        if missing := sorted(self._expected.keys() - nodes.keys()):
            raise PayloadError(f"tensor {missing[0]!r} is missing from the update ({len(missing)} such tensors)")
        self._body.close()
        return {name: nodes[name] for name in self._expected}

    def _entry(self, entry: Any, seen: Mapping[str, Node]) -> tuple[str, Any]:
        """Check what the header tells of one tensor, but for its encoding, which is returned with its name."""
        match entry:
            case [str(name), str(dtype), list(shape), told]:
                pass
            case _:
                raise PayloadError("the header tells of a tensor otherwise than by name, dtype, shape and encoding")
        if name not in self._expected:
            raise PayloadError(f"tensor {name!r} is unexpected in the update")
        if name in seen:
            raise PayloadError(f"tensor {name!r} is in the update twice")
        wanted = [dtype_name(self._expected[name][1]), list(self._expected[name][0])]
        if [dtype, shape] != wanted or any(type(size) is not int for size in shape):
            raise PayloadError(f"tensor {name!r} is {dtype}{shape}, expected {wanted[0]}{wanted[1]}")
        return name, told

    def _twin(self, name: str, other: str, nodes: Mapping[str, Node]) -> Node:
        if other not in nodes or self._expected[other] != self._expected[name]:
            raise PayloadError(
                f"tensor {name!r}: is said to equal {other!r}, which is no earlier tensor of its shape and dtype"
            )
        return nodes[other]

    def _node(self, told: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, first: int = 0) -> Node:
        """Read one tensor, or a part of one, of which the header tells `told`; stages before `first` are behind it."""
        if type(told) is int and told == 0:
            array = self._body.take(shape, dtype, f"tensor {name!r}")
            if not bool(array.isfinite().all()):
                raise PayloadError(f"tensor {name!r} holds NaN or infinity")
            return Node(array=array)
        match told:
            case [int(index), dict(meta), *rest] if first <= index < len(self._stages) and len(rest) <= 1:
                inner = rest[0] if rest else []
            case _:
                raise PayloadError(f"tensor {name!r}: {told!r} is no encoding by {' > '.join(self._names)}")
        stage = self._stages[index]
        if not dtype.is_floating_point or not isinstance(inner, list):
            raise PayloadError(f"tensor {name!r}: {told!r} is no encoding of {dtype_name(dtype)}")
        try:
            layouts = stage.layout(meta, shape)
        except PayloadError as error:
            raise PayloadError(f"tensor {name!r}: {error}") from None
        go_on = [not stage.terminal and part.dtype == torch.float32 for part in layouts]
        if len(inner) != sum(go_on):
            raise PayloadError(f"tensor {name!r}: {told!r} tells of another number of parts than {self._names[index]!r} makes")
        tells = iter(inner)
        parts = [
            self._node(next(tells) if more else 0, name, part.shape, part.dtype, index + 1)
            for part, more in zip(layouts, go_on, strict=True)
        ]
        return Node(index, meta, parts)

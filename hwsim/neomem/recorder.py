"""Recording what a real training step does to memory: the tensors that every operation of torch reads and writes.

Each input and output of each operation is a run of pages, from the first to the last byte of its storage that it covers. Pages
are numbered in order of first touch, so that the numbers do not depend on where the allocator puts things; which buffers share
pages does, as on any machine. An access moves a page, as in `training`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..simulator import HwsimError
from .traces import Trace, renumber


class Recorder(TorchDispatchMode):
    """A context in which operations are recorded; `trace` then returns what they touched."""

    def __init__(self, page_bytes: int = 4096) -> None:
        super().__init__()
        self.page_bytes = page_bytes
        self._runs: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; note its inputs as read, then its outputs, among them tensors changed in place, as written."""
        returns = func._schema.returns
        if returns and all(r.alias_info is not None and not r.alias_info.is_write for r in returns):
            return func(*args, **(kwargs or {}))  # a view: no memory is touched
        for leaf in tree_leaves((args, kwargs)):
            self._note(leaf, 0)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            self._note(leaf, 1)
        return result

    def trace(self) -> Trace:
        """Return the pages touched so far.

        Raises
        ------
        HwsimError
            INVALID_ARGUMENT if there are none.
        """
        if not self._runs:
            raise HwsimError("trace: empty; no operation touched memory", field="trace")
        keys_N = np.concatenate([np.arange(first, last + 1) for first, last, _ in self._runs])
        writes_N = np.repeat([write for _, _, write in self._runs], [last - first + 1 for first, last, _ in self._runs])
        pages_N, pages = renumber(keys_N)
        return Trace(pages_N, writes_N.astype(np.uint8), pages, self.page_bytes, self.page_bytes)

    def _note(self, leaf: Any, write: int) -> None:
        if not isinstance(leaf, torch.Tensor) or leaf.numel() == 0 or leaf.device.type != "cpu" or leaf.layout != torch.strided:
            return
        span = sum((size - 1) * stride for size, stride in zip(leaf.shape, leaf.stride(), strict=True)) + 1
        start = leaf.data_ptr()
        end = start + span * leaf.element_size() - 1
        self._runs.append((start // self.page_bytes, end // self.page_bytes, write))


def record_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor], page_bytes: int = 4096
) -> Trace:
    """Record one step, after one that is not recorded and lets the optimizer make its state.

    Parameters
    ----------
    model : Module
        What is trained; its parameters and its batch are on the CPU.
    optimizer : Optimizer
        Of its parameters.
    loss : callable
        Runs the model on a batch and returns the loss.
    page_bytes : int
        Size of a page.

    Raises
    ------
    HwsimError
        INVALID_ARGUMENT if the step touches no memory.
    """
    _step(model, optimizer, loss)
    with Recorder(page_bytes) as recorder:
        _step(model, optimizer, loss)
    return recorder.trace()


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> None:
    model.train()
    optimizer.zero_grad(set_to_none=True)
    loss().backward()
    optimizer.step()

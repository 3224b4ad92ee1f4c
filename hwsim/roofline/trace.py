"""From a torch module to a workload: every ATen operator of a run, with its arithmetic and its traffic.

Arithmetic is counted by torch's own formulas (`torch.utils.flop_counter`): matrix products, convolutions and attention;
everything else counts as none, but its bytes count. Traffic is ideal: each operand is read once and each result written once,
views cost nothing, and an expanded operand is as large as what it is a view of. Shapes are in names: `mm 32x784 784x10`.

A run may be on meta tensors, which hold no numbers, or on real ones: the same operators are seen.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ..simulator import HwsimError, Job
from .workload import Footprint, Operator, Precision, Workload

aten = torch.ops.aten
Phase = Literal["inference", "forward", "backward", "optimizer"]
Optimizer = Literal["sgd", "momentum", "adam", "adamw"]
STATE_PER_PARAMETER: dict[Optimizer, int] = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""Numbers that an optimizer keeps for every parameter."""


_TRACED = (1, 2)  # steps of the two runs whose difference is one
TRACED_STEPS = sum(_TRACED)
"""Steps that `traced_step` takes in all."""


def _cpu_attention(query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _cpu_attention_backward(grad_out, query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad_out.shape, query.shape, key.shape, value.shape)


# torch 2.13 has no formula for the attention kernel that CPUs run, and counts it as nothing (pytorch issue 195460)
_CPU_FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
_MULTIPLIES = ("mm", "matmul", "conv", "attention", "linear", "einsum", "rnn", "lstm", "gru", "fft")
"""An operator with such a name and without a formula does arithmetic that is not counted."""
_NO_TRAFFIC = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "set_"}
_READS_WHAT_IT_TAKES = {"embedding", "index_select", "gather", "index"}  # of their first operand


class _Recorder(TorchDispatchMode):
    """Counts equal operators while it is active."""

    def __init__(self, parameters: Iterable[Tensor], job: Job = Job()) -> None:  # noqa: B008 - immutable
        super().__init__()
        self._job = Job(job.deadline, job.cancelled)  # how much is done, nobody knows
        self.phase: Phase = "inference"
        """Of what runs outside backward."""
        self.operators: Counter[Operator] = Counter()
        self.uncounted: set[str] = set()
        self.largest_bytes = 0
        self._weights = {p.untyped_storage()._cdata for p in parameters}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._job.step()
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        if packet not in flop_registry and packet not in _CPU_FORMULAS and func is not torch.ops.prim.device.default:
            with self:
                result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        result = func(*args, **kwargs)
        if not func.is_view and packet.__name__ not in _NO_TRAFFIC:
            self._note(func, packet, args, kwargs, result)
        return result

    def _note(self, func, packet, args, kwargs, result) -> None:
        operands = _tensors((args, kwargs))
        results = {t.untyped_storage()._cdata: t for t in _tensors(result)}
        if not operands and not results:
            return
        name, weight_bytes, act_bytes, store_bytes = packet.__name__, 0, 0, 0
        distinct = {t.untyped_storage()._cdata: t for t in operands}
        for place, (storage, operand) in enumerate(distinct.items()):
            read = sum(map(_bytes, results.values())) if place == 0 and name in _READS_WHAT_IT_TAKES else _bytes(operand)
            if storage in self._weights:
                weight_bytes += read
            else:
                act_bytes += read
        written = {storage: t for storage, t in results.items() if storage not in distinct}
        written |= {t.untyped_storage()._cdata: t for t in _mutated(func, args, kwargs)}
        store_bytes = sum(map(_bytes, written.values()))
        self.largest_bytes = max(self.largest_bytes, act_bytes + store_bytes)
        shapes = ["x".join(map(str, t.shape)) for t in operands[:2] if t.dim()]
        operator = Operator(
            name=" ".join([name.strip("_"), *shapes]),
            phase="backward" if torch._C._current_graph_task_id() != -1 else self.phase,
            flops=self._flops(packet, args, kwargs, result),
            load_weight_bytes=weight_bytes,
            load_act_bytes=act_bytes,
            store_act_bytes=store_bytes,
        )
        self.operators[operator] += 1

    def _flops(self, packet, args, kwargs, result) -> int:
        if packet in _CPU_FORMULAS:
            return _CPU_FORMULAS[packet](*args, **kwargs)
        if packet in flop_registry:
            formula: Callable[..., int] = flop_registry[packet]
            return int(formula(*args, **kwargs, out_val=result))
        if any(part in packet.__name__ for part in _MULTIPLIES):
            self.uncounted.add(packet.__name__)
        return 0


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _mutated(func, args, kwargs) -> Iterator[Tensor]:
    """Yield the operands that an operator writes to."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from _tensors(value)


@contextmanager
def _refusing_values() -> Iterator[None]:
    """Turn torch's complaints about tensors without numbers into one of ours."""
    try:
        yield
    except ValidationError:  # of an operator, not of the model
        raise
    except (NotImplementedError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise HwsimError(
            f"the model cannot be analysed on such inputs without numbers: {reason}", "UNIMPLEMENTED", "model"
        ) from error


@dataclass(frozen=True)
class Example:
    """A model with a batch of what it is used on; of tensors, only shapes and types matter.

    Attributes
    ----------
    inputs : tuple of Tensor
        What ``model(*inputs)`` takes.
    targets : tuple of Tensor
        What ``loss(model, *inputs, *targets)``, a scalar, takes beside them.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    loss: Callable[..., Tensor]


def inference(example: Example, precision: Precision = "fp32", job: Job = Job()) -> Workload:  # noqa: B008 - immutable
    """Analyse one forward pass, on meta tensors.

    Raises
    ------
    HwsimError
        UNIMPLEMENTED if the model needs numbers to know what to do next; CANCELLED or DEADLINE_EXCEEDED by the job.
    """
    model, inputs = _on_meta(example.model).eval(), [x.to("meta") for x in example.inputs]
    recorder = _Recorder(model.parameters(), job)
    with _refusing_values(), torch.no_grad(), recorder:
        model(*inputs)
    footprint = Footprint(
        weights_bytes=_weights_bytes(model), activations_bytes=recorder.largest_bytes, inputs_bytes=sum(map(_bytes, inputs))
    )
    return _workload(recorder.operators, footprint, precision, recorder.uncounted)


def training_step(
    example: Example,
    optimizer: Optimizer = "sgd",
    precision: Precision = "fp32",
    per_sample: bool = False,
    job: Job = Job(),  # noqa: B008 - immutable
) -> Workload:
    """Analyse forward, backward and an optimizer's step, on meta tensors.

    The optimizer is one fused operator: it reads parameters, gradients and its state once and writes parameters and state once.

    Parameters
    ----------
    per_sample : bool
        DP-SGD: gradients of every sample are written, read for their norms, and read and summed once more; noise is added.

    Raises
    ------
    HwsimError
        UNIMPLEMENTED if the model needs numbers to know what to do next; CANCELLED or DEADLINE_EXCEEDED by the job.
    """
    model, inputs = _on_meta(example.model).train(), [x.to("meta") for x in (*example.inputs, *example.targets)]
    recorder = _Recorder(model.parameters(), job)
    with _refusing_values(), kept_for_backward(model) as kept, recorder:
        recorder.phase = "forward"
        example.loss(model, *inputs).backward()
    operators = recorder.operators + Counter(_update(model, optimizer))
    if per_sample:
        operators += Counter(_per_sample(model, len(inputs[0])))
    inputs_bytes = sum(map(_bytes, inputs))
    footprint = _footprint(model, kept.bytes, inputs_bytes, len(inputs[0]), optimizer, per_sample)
    return _workload(operators, footprint, precision, recorder.uncounted)


def traced_step(
    model: nn.Module,
    train: Callable[[nn.Module, int], object],
    batch_size: int,
    optimizer: Optimizer = "sgd",
    precision: Precision = "fp32",
    per_sample: bool = False,
) -> Workload:
    """Record one more step of a real training loop, with real numbers: two steps less one, on copies of a model.

    What the loop does to begin with, such as making an optimizer, is in both and drops out.

    Parameters
    ----------
    train : callable
        ``train(model, steps)`` takes that many steps, each on `batch_size` samples.
    optimizer, per_sample
        For what must be in memory: the optimizer's state, a gradient for every sample. Under DP-SGD, all that the forward
        pass writes counts as kept for backward; otherwise it is what autograd saves.
    """
    recorded: list[_Recorder] = []
    for steps in _TRACED:
        trained = copy.deepcopy(model)
        recorder = _Recorder(trained.parameters())
        recorder.phase = "forward"
        # torch.func, with which Opacus differentiates some layers, forbids looking at what is saved
        saved = nullcontext() if per_sample else kept_for_backward(trained)
        with torch.random.fork_rng(devices=[]), saved as kept, recorder, _optimizers_seen(recorder):
            train(trained, steps)
        recorded.append(recorder)
    operators = recorded[1].operators - recorded[0].operators
    written = sum(n * op.store_act_bytes for op, n in operators.items() if op.phase == "forward")
    footprint = _footprint(model, kept.bytes // 2 if kept else written, 0, batch_size, optimizer, per_sample)
    return _workload(operators, footprint, precision, recorded[1].uncounted)


@contextmanager
def _optimizers_seen(recorder: _Recorder) -> Iterator[None]:
    """Let a recorder know when an optimizer is at work."""

    def enter(*_: object) -> None:
        recorder.phase = "optimizer"

    def leave(*_: object) -> None:
        recorder.phase = "forward"

    hooks = [register_optimizer_step_pre_hook(enter), register_optimizer_step_post_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _footprint(
    model: nn.Module, kept_bytes: int, inputs_bytes: int, batch_size: int, optimizer: Optimizer, per_sample: bool
) -> Footprint:
    """Say what training needs in memory at once."""
    trainable = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return Footprint(
        weights_bytes=_weights_bytes(model),
        gradients_bytes=trainable * (1 + batch_size * per_sample),
        optimizer_bytes=trainable * STATE_PER_PARAMETER[optimizer],
        activations_bytes=kept_bytes,
        inputs_bytes=inputs_bytes,
    )


class _Kept:
    """Storages that wait for backward, each counted once; parameters are there anyway."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = {p.untyped_storage()._cdata for p in model.parameters()}
        self._storages: dict[int, Any] = {}

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._storages[storage._cdata] = storage  # held, so that its number is not given to another one
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


@contextmanager
def kept_for_backward(model: nn.Module) -> Iterator[_Kept]:
    """Count what autograd saves."""
    kept = _Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor):
        yield kept


def _on_meta(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("meta")


def _weights_bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def _update(model: nn.Module, optimizer: Optimizer) -> dict[Operator, int]:
    parameters = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    state = parameters * STATE_PER_PARAMETER[optimizer]
    update = Operator(
        name=optimizer,
        phase="optimizer",
        load_weight_bytes=parameters,
        load_act_bytes=parameters + state,
        store_act_bytes=parameters + state,
    )
    return {update: 1}


def _per_sample(model: nn.Module, batch: int) -> dict[Operator, int]:
    """Return what DP-SGD adds to a step: 2 b n operations to scale and sum n gradients of b samples each."""
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = {"flops": 2 * batch * numbers, "load_act_bytes": batch * gradients}
    return {
        Operator(name="per-sample gradients", phase="backward", store_act_bytes=batch * gradients): 1,
        Operator(name="norms of gradients", phase="backward", **every): 1,
        Operator(name="clip and sum", phase="backward", **every, store_act_bytes=gradients): 1,
        Operator(name="noise", phase="backward", load_act_bytes=gradients, store_act_bytes=gradients): 1,
    }


def _workload(operators: Counter[Operator], footprint: Footprint, precision: Precision, uncounted: Iterable[str]) -> Workload:
    counted = tuple(op.model_copy(update={"count": times}) for op, times in operators.items())
    return Workload(operators=counted, footprint=footprint, precision=precision, uncounted=tuple(sorted(uncounted)))

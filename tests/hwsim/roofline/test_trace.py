"""Operators of torch modules: arithmetic as torch counts it, traffic as counted by hand, nothing left behind."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedcosim.hwsim.roofline.simulator import ModelRequest
from fedcosim.hwsim.roofline.trace import Example, inference, traced_step, training_step
from fedcosim.hwsim.roofline.workload import Operator, Workload
from fedcosim.hwsim.simulator import HwsimError, Job
from fedcosim.server.architectures import example

F = 4  # bytes of a float


def counted_by_torch(one: Example) -> int:
    """Operations of a training step as `FlopCounterMode` counts them on meta tensors."""
    model, batch = copy.deepcopy(one.model).to("meta").train(), [x.to("meta") for x in (*one.inputs, *one.targets)]
    with FlopCounterMode(display=False) as counter:
        one.loss(model, *batch).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["lenet", "cnn", "vit", "unet-xs", "resnet18"])
def test_a_training_steps_arithmetic_is_what_torch_counts(name):
    one = example(ModelRequest(name=name, batch=3))
    work = training_step(one)
    assert work.flops == counted_by_torch(one) > 0
    assert work.uncounted == ()


def test_vit_b16_is_as_published():
    """33.5e9 in its blocks, 1.4e9 in attention, patches and head; backward twice that, but images need no gradient."""
    one = example(ModelRequest(name="vit-b16"))
    assert inference(one).flops == 35_127_656_448
    step = training_step(one)
    assert step.flops == 105_151_758_336 == 3 * 35_127_656_448 - 231_211_008
    assert sum(p.numel() for p in one.model.parameters()) == 86_567_656


@pytest.mark.parametrize(
    ("optimizer", "held_bytes", "update_bytes"),
    [("sgd", 692_541_248, 12), ("momentum", 1_038_811_872, 20), ("adam", 1_385_082_496, 28), ("adamw", 1_385_082_496, 28)],
)
def test_an_optimizer_holds_and_moves_its_state(optimizer, held_bytes, update_bytes):
    """ViT-B/16 in fp32: 8, 12 or 16 bytes a parameter are held, and 12, 20 or 28 move in an update."""
    work = training_step(example(ModelRequest(name="vit-b16")), optimizer)
    held = work.footprint
    assert held.weights_bytes + held.gradients_bytes + held.optimizer_bytes == held_bytes
    (update,) = (op for op in work.operators if op.phase == "optimizer")
    assert update.memory_bytes == update_bytes * 86_567_656


def test_dp_sgd_holds_a_gradient_for_every_sample():
    plain, private = (training_step(example(ModelRequest(name="vit-b16", batch=32)), per_sample=p) for p in (False, True))
    assert private.footprint.gradients_bytes - plain.footprint.gradients_bytes == 11_080_659_968
    assert private.flops - plain.flops == 2 * 2 * 32 * 86_567_656  # norms, and a weighted sum


def test_convolutions_need_a_product_for_every_tap():
    """LeNet on 28 x 28: two convolutions on 28 x 28 and 10 x 10 places, three linear layers."""
    taps = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    assert inference(example(ModelRequest(name="lenet", batch=7))).flops == 2 * 7 * taps


# ------------------------------------------------------------------------------------------------------- single operators


class Does(nn.Module):
    """A function as a module, perhaps with one parameter."""

    def __init__(self, function, *weight_shape: int) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.empty(*weight_shape)) if weight_shape else None

    def forward(self, *inputs):
        return self.function(*inputs) if self.w is None else self.function(self.w, *inputs)


def operators(function, *inputs, weight: tuple[int, ...] = ()) -> dict[str, Operator]:
    module = Does(function, *weight)
    return {op.name: op for op in inference(Example(module, inputs, (), lambda *_: None)).operators}


def amounts(op: Operator) -> tuple[int, int, int, int]:
    return op.flops, op.load_weight_bytes, op.load_act_bytes, op.store_act_bytes


A, B, LONGS = torch.empty(5, 7), torch.empty(7, 3), torch.zeros(6, dtype=torch.long)


@pytest.mark.parametrize(
    ("function", "inputs", "weight", "name", "expected"),
    [
        (torch.mm, (A, B), (), "mm 5x7 7x3", (2 * 5 * 7 * 3, 0, (35 + 21) * F, 15 * F)),
        (lambda w, x: x @ w, (A,), (7, 3), "mm 5x7 7x3", (2 * 5 * 7 * 3, 21 * F, 35 * F, 15 * F)),
        (torch.addmm, (torch.empty(3), A, B), (), "addmm 3 5x7", (2 * 5 * 7 * 3, 0, (3 + 35 + 21) * F, 15 * F)),
        (lambda a, b: a.add_(b), (A, A.clone()), (), "add 5x7 5x7", (0, 0, 70 * F, 35 * F)),
        (lambda a: a * a, (A,), (), "mul 5x7 5x7", (0, 0, 35 * F, 35 * F)),  # one operand, read once
        (lambda a: a.expand(99, 5, 7) + 1, (A,), (), "add 99x5x7", (0, 0, 35 * F, 99 * 35 * F)),  # as large as what it is of
        (lambda a: a[:, :2] + 1, (A,), (), "add 5x2", (0, 0, 10 * F, 10 * F)),
        (
            lambda w, i: nn.functional.embedding(i, w), (LONGS,), (1000, 8), "embedding 1000x8 6",
            (0, 6 * 8 * F, 6 * 8, 6 * 8 * F),
        ),
        (
            lambda w, x: nn.functional.conv2d(x, w, stride=2), (torch.empty(2, 3, 9, 9),), (8, 3, 3, 3),
            "convolution 2x3x9x9 8x3x3x3", (2 * 2 * 8 * 16 * 27, 8 * 27 * F, 2 * 3 * 81 * F, 2 * 8 * 16 * F),
        ),
        (
            lambda w, x: nn.functional.conv2d(x, w, groups=3), (torch.empty(1, 3, 5, 5),), (6, 1, 3, 3),
            "convolution 1x3x5x5 6x1x3x3", (2 * 6 * 9 * 9, 6 * 9 * F, 75 * F, 6 * 9 * F),
        ),
        (lambda a: torch.softmax(a, 1), (A.half(),), (), "softmax 5x7", (0, 0, 35 * 2, 35 * 2)),
    ],
)  # fmt: skip
def test_an_operator_does_and_moves_what_it_must(function, inputs, weight, name, expected):
    found = operators(function, *inputs, weight=weight)
    assert list(found) == [name]
    assert amounts(found[name]) == expected


def test_views_are_free():
    """They look at the same memory."""
    found = operators(lambda a: a.view(7, 5).t()[1:].unsqueeze(0).expand(3, 4, 7).relu(), A)
    assert list(found) == ["relu 3x4x7"]


def test_equal_operators_are_one_with_a_count():
    twice = inference(Example(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Tanh()), (A,), (), lambda *_: None))
    assert [(op.name, op.count) for op in twice.operators] == [("relu 5x7", 2), ("tanh 5x7", 1)]
    assert twice.memory_bytes == 3 * 2 * 35 * F


# --------------------------------------------------------------------------------------------------------- what is in memory


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))


def test_what_backward_needs_is_kept_once():
    """Of an MLP on 4 rows: inputs (the first weight's gradient), the hidden layer (its own, and that of the ReLU), logits."""
    one = Example(mlp(), (torch.empty(4, 7),), (), lambda model, x: (model(x) ** 2).sum())
    held = training_step(one).footprint
    assert held.activations_bytes == (4 * 7 + 4 * 5 + 4 * 3) * F
    assert held.weights_bytes == held.gradients_bytes == (7 * 5 + 5 + 5 * 3 + 3) * F
    assert held.inputs_bytes == 4 * 7 * F


def test_without_training_the_largest_operator_is_in_memory():
    held = inference(Example(mlp(), (torch.empty(4, 7),), (), lambda *_: None)).footprint
    assert held.activations_bytes == (4 * 7 + 4 * 5) * F
    assert held.gradients_bytes == held.optimizer_bytes == 0


def test_frozen_weights_have_no_gradient():
    model = mlp()
    model[0].requires_grad_(False)
    one = Example(model, (torch.empty(4, 7),), (), lambda model, x: model(x).sum())
    work = training_step(one, "adam")
    trained = 5 * 3 + 3
    assert work.footprint.gradients_bytes == trained * F
    assert work.footprint.optimizer_bytes == 2 * trained * F
    assert work.flops == 2 * 4 * (7 * 5 + 5 * 3) + 2 * 4 * 5 * 3  # forward, and the gradient of one weight


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("analyse", [inference, training_step])
def test_a_model_that_depends_on_its_data_is_unimplemented(analyse):
    branching = Does(lambda x: x * 2 if x.sum() > 0 else x)
    with pytest.raises(HwsimError) as raised:
        analyse(Example(branching, (A,), (), lambda model, x: model(x).sum()))
    assert (raised.value.code, raised.value.field, raised.value.exit_code) == ("UNIMPLEMENTED", "model", 2)


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.99])
def test_an_analysis_that_nobody_waits_for_ends_at_its_next_operator(share):
    """In the middle of a backward pass too."""
    one, asked = example(ModelRequest(name="lenet")), 0

    def cancelled_after(most: float) -> Callable[[], bool]:
        def cancelled() -> bool:
            nonlocal asked
            asked += 1
            return asked > most

        return cancelled

    training_step(one, job=Job(cancelled=cancelled_after(math.inf)))
    most, asked = int(asked * share), 0
    with pytest.raises(HwsimError) as raised:
        training_step(one, job=Job(cancelled=cancelled_after(most)))
    assert (raised.value.code, asked) == ("CANCELLED", most + 1)


def test_arithmetic_without_a_formula_is_named():
    work = inference(Example(Does(torch.fft.fft), (A,), (), lambda *_: None))
    assert work.uncounted == ("_fft_r2c",)


# ---------------------------------------------------------------------------------------------------------- real training


class Attention(nn.Module):
    """One layer of attention with two heads of four."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x_NTC):
        n, t, _ = x_NTC.shape
        q, k, v = self.qkv(x_NTC).view(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, 8))


def loss(model: nn.Module, x, y):
    return nn.functional.mse_loss(model(x), y)


def trainer(x, y, make=lambda parameters: torch.optim.SGD(parameters, lr=0.1)):
    """A training loop: as many steps on the same batch as are asked for."""

    def train(model: nn.Module, steps: int) -> None:
        optimizer = make(model.parameters())
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model, x, y).backward()
            optimizer.step()

    return train


def test_attention_on_a_cpu_is_counted_as_on_meta():
    """torch has no formula for the kernel that CPUs run, and its own counter takes it for nothing.

    Backward, that kernel computes the scores once more, which on meta tensors are kept.
    """
    x = torch.randn(2, 5, 8)
    model = Attention()
    real, meta = traced_step(model, trainer(x, x), 2), training_step(Example(model, (x,), (x,), loss))
    forward_flops = [sum(op.count * op.flops for op in w.operators if op.phase == "forward") for w in (real, meta)]
    one_product = 2 * 2 * 2 * 5 * 5 * 4
    assert forward_flops == [2 * 10 * 8 * (24 + 8) + 2 * one_product] * 2
    assert meta.flops == counted_by_torch(Example(model, (x,), (x,), loss))
    assert real.flops == meta.flops + one_product


def test_a_traced_step_is_a_step_on_meta():
    """The same arithmetic; gradients, activations and optimizer state as analysed."""
    x, y = torch.randn(4, 7), torch.randn(4, 3)
    for optimizer, make in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)):
        real = traced_step(mlp(), trainer(x, y, lambda p, make=make: make(p, lr=0.1)), 4, optimizer)
        meta = training_step(Example(mlp(), (x,), (y,), loss), optimizer)
        assert real.flops == meta.flops
        for field in ("weights_bytes", "gradients_bytes", "optimizer_bytes"):
            assert getattr(real.footprint, field) == getattr(meta.footprint, field)


def test_a_traced_step_tells_its_phases_apart():
    """SGD reads parameters and gradients, and writes parameters: twelve bytes a parameter."""
    model = mlp()
    work = traced_step(model, trainer(torch.randn(4, 7), torch.randn(4, 3)), 4)
    assert {op.phase for op in work.operators} == {"forward", "backward", "optimizer"}
    update = Workload(operators=tuple(op for op in work.operators if op.phase == "optimizer"))
    assert update.memory_bytes == 12 * sum(p.numel() for p in model.parameters())
    forward = Workload(operators=tuple(op for op in work.operators if op.phase == "forward"))
    assert forward.flops == 2 * 4 * (7 * 5 + 5 * 3)


def test_a_traced_step_leaves_no_trace():
    """Parameters, gradients, the mode and random numbers are as if nobody had looked."""
    model = nn.Sequential(mlp(), nn.Dropout(0.5)).train()
    model[0][0].weight.grad = torch.ones(5, 7)
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    traced_step(model, trainer(torch.ones(4, 7), torch.ones(4, 3)), 4)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(model[0][0].weight.grad, torch.ones(5, 7))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "0.0.weight")
    assert model.training


def test_an_analysis_leaves_the_model_alone():
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    training_step(Example(model, (torch.ones(4, 7),), (torch.ones(4, 3),), loss))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())

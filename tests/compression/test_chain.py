"""What holds for every codec, alone and in chains: the two ends agree, bytes are counted, what is lost is told and fed back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from updates import CHAINS, codec, context, model, normal, stream, weights

from fedcosim.compression import CODECS, Base, Codec, Context, layout, parse
from fedcosim.compression.codec import Encoding, Part, Parts, Stage, numbers
from fedcosim.core.errors import CalibrationError, CodecError, SpecError


def floats(update: Mapping[str, Tensor]) -> Tensor:
    """Return all trained parameters as one vector."""
    buffers = {name for name, _ in model().named_buffers()}
    return torch.cat([x.flatten().double() for name, x in update.items() if name not in buffers])


def test_every_codec_is_tested():
    assert set(CODECS.names()) <= {chain for chain in CHAINS if isinstance(chain, str)}


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_both_ends_agree(chain):
    """The receiver gets the layout it expects, and has lost what the sender's report says."""
    update, asked = weights(1), context()
    encoded = codec(chain).encode(update, asked)
    decoded = codec(chain).decode(encoded.blob, layout(update), asked.base)
    assert layout(decoded) == layout(update)
    delta = floats(update) - floats(asked.base.tensors)
    lost = float((floats(update) - floats(decoded)).norm() / delta.norm())
    assert encoded.report.error == pytest.approx(lost, rel=1e-3, abs=1e-6)
    for name, _ in model().named_buffers():
        assert torch.equal(decoded[name], update[name])


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_bytes_are_those_of_the_blob_and_the_same_every_time(chain):
    update = weights(1)
    one, other = (codec(chain).encode(update, context()) for _ in range(2))
    assert one.blob == other.blob
    assert one.report.encoded_bytes == len(one.blob)
    assert one.report.dense_bytes == sum(x.nbytes for x in update.values())
    told = sum(tensor.encoded_bytes for tensor in one.report.tensors)
    header_bytes = int.from_bytes(one.blob[6:10], "little")
    assert told + header_bytes + 26 == len(one.blob)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_options_survive_being_written_down(chain):
    options = parse({"codec": chain})
    assert parse(options.model_dump(mode="json")) == options


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if codec(chain).error_feedback], ids=str)
def test_what_is_lost_is_sent_later(chain):
    """Error feedback telescopes: all that was received and the last residual are all that was to be sent."""
    sender, state, base = codec(chain), {}, weights()
    sent = received = 0.0
    for number in range(1, 5):
        update = weights(number)
        encoded = sender.encode(update, context(number, state))
        state = encoded.state
        sent = sent + floats(update) - floats(base)
        received = received + floats(sender.decode(encoded.blob, layout(update), Base(base))) - floats(base)
    kept = {name: state.get(f"residual/{name}", torch.zeros(x.shape)) for name, x in base.items()}
    torch.testing.assert_close(received + floats(kept), sent, rtol=0, atol=2e-5)


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if not codec(chain).error_feedback], ids=str)
def test_codecs_without_feedback_keep_nothing_of_the_update(chain):
    assert not [key for key in codec(chain).encode(weights(1), context()).state if key.startswith("residual/")]


@pytest.mark.parametrize("chain", ["topk", "signsgd", "powersgd", "svd", "asvd", "svd-llm", "int8", "int4"])
def test_codecs_that_feed_back_never_lose_more_than_they_got(chain):
    update = {"weight": normal(50, 60)}
    made = codec(chain, error_feedback=False)
    encoded = made.encode(update, Context(Base({"weight": torch.zeros(50, 60)}), stream(), context().calibration))
    assert encoded.report.error <= 1


@pytest.mark.parametrize("chain", ["svd", "asvd", "svd-llm", "powersgd"])
def test_truncated_updates_are_never_larger_than_the_update(chain):
    """Projections: a norm that was clipped before encoding is still below the clip, rounding aside."""
    update, asked = weights(1), context()
    decoded = codec(chain).decode(codec(chain).encode(update, asked).blob, layout(update), asked.base)
    for name, x in update.items():
        if x.ndim > 1:
            assert (decoded[name] - asked.base.tensors[name]).norm() <= (x - asked.base.tensors[name]).norm() * (1 + 1e-6)


def test_weights_can_be_the_target():
    update = weights(1)
    made = codec("asvd", target="weights", ratio=0.6)
    encoded = made.encode(update, replace(context(), base=None))
    decoded = made.decode(encoded.blob, layout(update))
    assert not encoded.state
    assert (
        0
        < float((floats(decoded) - floats(update)).norm() / floats(update).norm())
        == pytest.approx(encoded.report.error, rel=1e-3)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_precisions_come_back_in_theirs(dtype):
    update = {"weight": normal(40, 50).to(dtype), "bias": normal(40).to(dtype)}
    base = Base({name: torch.zeros_like(x) for name, x in update.items()})
    decoded = codec("int8").decode(codec("int8").encode(update, Context(base)).blob, layout(update), base)
    assert layout(decoded) == layout(update)
    assert torch.equal(decoded["bias"], update["bias"])
    torch.testing.assert_close(decoded["weight"], update["weight"], rtol=0.05, atol=0.05)


def test_tied_tensors_travel_once():
    shared = normal(100, 64)
    tied = {"embedding": shared, "head": shared.clone(), "other": normal(100, 64, seed=1)}
    untied = {**tied, "head": normal(100, 64, seed=2)}
    made = codec("int8", target="weights")
    encoded = made.encode(tied)
    assert len(made.encode(untied).blob) - len(encoded.blob) > 100 * 64 * 0.9
    decoded = made.decode(encoded.blob, layout(tied))
    assert torch.equal(decoded["embedding"], decoded["head"])
    assert [tensor.how for tensor in encoded.report.tensors] == ["int8", "= embedding", "int8"]


def test_factors_that_would_cost_more_are_not_made():
    """Full rank, vectors, and matrices for which no rank saves anything go on as they are, or to the next codec."""
    update = {"large": normal(64, 64), "vector": normal(500), "thin": normal(2, 100), "row": normal(1, 100)}
    made = codec("svd", ratio=1, target="weights").encode(update)
    assert {tensor.how for tensor in made.report.tensors} == {"dense"}
    made = codec(["svd", "int8"], ratio=0.1, target="weights").encode(update)
    assert [t.how for t in made.report.tensors] == ["svd rank=3 > int8", "int8", "svd rank=1 > int8", "int8"]


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("ranks", ["stable_rank", "loss"])
def test_searched_ranks_keep_the_budget_and_nearly_use_it(ratio, ranks):
    update = weights(1)
    report = codec("asvd", ratio=ratio, ranks=ranks, error_feedback=False).encode(update, context()).report
    factored = [tensor for tensor in report.tensors if len(update[tensor.name].shape) > 1]
    achieved = sum(t.encoded_bytes for t in factored) / sum(t.dense_bytes for t in factored)
    assert ratio - 0.02 <= achieved <= ratio


def test_ratios_below_the_smallest_candidates_name_what_they_reach():
    with pytest.raises(CodecError, match=r"ratio = 0\.05: the smallest candidates reach 0\.\d+"):
        codec("svd", ratio=0.05, ranks="stable_rank").encode(weights(1), context())


def test_layers_without_calibration_go_on_with_a_note():
    update = {**weights(1), "stranger": normal(64, 64)}
    asked = replace(context(), base=Base({**weights(), "stranger": torch.zeros(64, 64)}))
    (report,) = [t for t in codec("asvd").encode(update, asked).report.tensors if t.name == "stranger"]
    assert (report.how, report.note) == ("dense", "no layer of that name saw calibration data")


def test_calibration_leaves_the_model_as_it_was():
    asked = context()
    module = asked.calibration.module.train()
    module[1].eval()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    for fields in ({}, {"scale_by": "gradient"}, {"ranks": "loss"}):
        codec("asvd", **fields).encode(weights(1), asked)
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    assert [part.training for part in module] == [True, False, *[True] * 5]
    assert not any(part._forward_pre_hooks for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_warm_start_is_given_up_when_the_update_is_another():
    base = Base({"weight": torch.zeros(60, 90)})
    made = codec("svd", start="warm", ratio=0.2, error_feedback=False)
    state: dict[str, Tensor] = {}
    for seed in (1, 2):  # of the second matrix, the factors of the first tell nothing
        update = {"weight": normal(60, 5, seed=seed) @ normal(5, 90, seed=10 + seed)}
        encoded = made.encode(update, Context(base, state=state))
        state = encoded.state
        assert encoded.report.error < 1e-3


def test_the_server_averages_what_clients_sent_whatever_their_ranks():
    """Ranks 4, 8 and dense: the mean of decoded updates is the double-precision mean of the products that were sent."""
    base, clients = Base({"weight": normal(96, 64, seed=9)}), []
    for seed, ratio in ((1, 4 * 160 / (96 * 64)), (2, 8 * 160 / (96 * 64)), (3, 1.0)):
        update = {"weight": base.tensors["weight"] + 0.1 * normal(96, 64, seed=seed)}
        made = codec("svd", ratio=ratio, error_feedback=False)
        encoded = made.encode(update, Context(base))
        node = made.read(encoded.blob, layout(update), base)["weight"]
        sent = [part.array.double() for part in node.parts]
        exact = base.tensors["weight"].double() + sent[0].T @ sent[1] if sent else update["weight"].double()
        clients.append((seed, made.decode(encoded.blob, layout(update), base)["weight"], exact, len(sent) and len(sent[0])))
    assert [rank for *_, rank in clients] == [4, 8, 0]
    total = sum(weight for weight, *_ in clients)
    mean = sum(weight * decoded for weight, decoded, *_ in clients) / total
    expected = sum(weight * exact for weight, _, exact, _ in clients) / total
    assert float((mean - expected).norm() / expected.norm()) <= 1e-6


def test_only_shared_places_can_be_added_before_decoding():
    """Secure aggregation adds what clients send; the reason why a codec cannot be used with it is for a person."""
    assert codec("randomk").linear
    for chain in CHAINS:
        made = codec(chain)
        assert made.linear == (chain == "randomk") == (not made.nonlinear_because)
    assert "asvd: factors" in codec(["asvd", "int8"]).nonlinear_because


def test_sums_of_random_k_decode_to_sums():
    made, base = codec("randomk"), Base({"weight": torch.zeros(50, 40)})
    nodes, decoded = [], []
    for seed in (1, 2):
        update = {"weight": normal(50, 40, seed=seed)}
        blob = made.encode(update, Context(base, stream(5))).blob
        nodes.append(made.read(blob, layout(update), base)["weight"])
        decoded.append(made.decode(blob, layout(update), base)["weight"])
    assert nodes[0].meta == nodes[1].meta
    summed = made.stages[0].decode(nodes[0].meta, [nodes[0].parts[0].array + nodes[1].parts[0].array], (50, 40))
    torch.testing.assert_close(summed, decoded[0] + decoded[1])


def test_calibration_and_chance_are_declared():
    """The caller refuses what is calibrated on private data before anything is computed."""
    assert {chain for chain in CODECS.names() if codec(chain).needs_calibration} == {"asvd", "svd-llm", "rptq"}
    assert codec("svd", ranks="loss").needs_calibration
    assert {chain for chain in CODECS.names() if codec(chain).randomised} == {"qsgd", "fedpaq", "randomk", "powersgd"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"calibration": None}, CalibrationError, "needs a model and calibration batches"),
        ({"base": None}, CodecError, "base"),
        ({"base": Base({})}, CodecError, "the base has None"),
        ({"state": {"residual/4.weight": torch.zeros(3)}}, CodecError, "residual"),
    ],
)
def test_what_a_codec_lacks_is_named(change, error, message):
    with pytest.raises(error, match=message):
        codec("asvd").encode(weights(1), replace(context(), **change))


def test_random_codecs_want_a_generator():
    with pytest.raises(CodecError, match="generator"):
        codec("qsgd").encode(weights(1), replace(context(), generator=None))


@pytest.mark.parametrize(
    ("batches", "message"), [([], "no batches"), ([torch.full((2, 3, 8, 8), float("nan"))], "inputs of .* hold NaN")]
)
def test_calibration_that_cannot_be_used_is_refused(batches, message):
    asked = context()
    with pytest.raises(CalibrationError, match=message):
        codec("asvd").encode(weights(1), replace(asked, calibration=replace(asked.calibration, batches=batches)))


@pytest.mark.parametrize("fields", [{"scale_by": "gradient"}, {"ranks": "loss"}])
def test_losses_are_wanted_where_they_are_used(fields):
    asked = context()
    with pytest.raises(CalibrationError, match="loss"):
        codec("asvd", **fields).encode(weights(1), replace(asked, calibration=replace(asked.calibration, loss=None)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    update = weights(1)
    update["4.weight"][3, 4] = value
    with pytest.raises(CodecError, match=r"'4\.weight' holds NaN or infinity"):
        codec("int8").encode(update, context())


def test_complex_weights_cannot_travel():
    with pytest.raises(CodecError, match="complex64"):
        codec("int8", target="weights").encode({"weight": torch.zeros(3, dtype=torch.complex64)})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "codec: missing"),
        ({"codec": "zip"}, "choose one of fp16"),
        ({"codec": "asvd", "ratio": 0}, r"upload\.ratio = 0"),
        ({"codec": "asvd", "ratio": 1.5}, r"upload\.ratio = 1\.5"),
        ({"codec": "asvd", "alpha": -0.1}, r"upload\.alpha = -0\.1"),
        ({"codec": "asvd", "alpha": float("nan")}, r"upload\.alpha = nan"),
        ({"codec": "asvd", "rate": 0.5}, "unknown field; did you mean 'ratio'"),
        ({"codec": "powersgd", "rank": 0}, r"upload\.rank = 0"),
        ({"codec": "qsgd", "bits": 9}, r"upload\.bits = 9"),
        ({"codec": "topk", "keep": 1}, r"upload\.keep = 1"),
        ({"codec": ["int8", "asvd"]}, "leaves nothing for 'asvd'"),
        ({"codec": "signsgd", "target": "weights"}, "encodes delta only"),
        ({"codec": "asvd", "target": "weights", "error_feedback": True}, "choose target = 'delta'"),
        ({"codec": "qsgd", "error_feedback": True}, "would grow"),
        ({"codec": "asvd", "start": "warm", "ranks": "loss"}, "uniform"),
    ],
)
def test_sections_that_make_no_sense_are_refused(section, message):
    with pytest.raises(SpecError, match=message):
        parse(section)


def test_fields_of_later_codecs_stand_in_their_tables():
    options = parse({"codec": ["topk", {"codec": "qsgd", "bits": 3}], "keep": 0.05})
    assert [one.model_dump() for one in options.codec] == [
        {"codec": "topk", "keep": 0.05},
        {"codec": "qsgd", "bits": 3, "bucket": 512},
    ]


class Labelled(Stage):
    """A codec of the next kind: calibrated channel clusters, whose labels travel beside the codes they explain."""

    @property
    def needs_calibration(self) -> bool:
        return True

    def encode(self, update: Mapping[str, Tensor], context: Context) -> Encoding:
        seen: dict[str, Tensor] = {}
        layers = {f"{n}.weight": m for n, m in context.calibration.module.named_modules() if isinstance(m, torch.nn.Linear)}
        handles = [
            layer.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0].abs().amax(0)}))
            for name, layer in layers.items()
        ]
        for batch in context.calibration.batches:
            context.calibration.module(batch)
        for handle in handles:
            handle.remove()
        parts = {}
        for name, largest_i in seen.items():
            labels_i = (largest_i > largest_i.median()).to(torch.uint8)
            scale = update[name].abs().max() / 127
            codes = (update[name] / scale).round().to(torch.int8)
            ranges = torch.stack([largest_i[labels_i == cluster].max() for cluster in (0, 1)])
            parts[name] = Parts({"clusters": 2}, (codes, scale.reshape(1), labels_i, ranges))
        return Encoding(parts)

    def layout(self, meta: Mapping[str, int], shape: tuple[int, ...]) -> tuple[Part, ...]:
        (clusters,) = numbers(meta, clusters=(1, 256))
        return Part(shape, torch.int8), Part((1,)), Part((shape[1],), torch.uint8), Part((clusters,))

    def decode(self, meta: Mapping[str, int], tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        return tensors[0].float() * tensors[1]


def test_codecs_that_also_send_quantisers_of_activations_fit():
    """RPTQ calibrates, sends labels and ranges of activations with the weights, and whoever runs the model wants them back."""
    made, update, asked = Codec(["labelled"], [Labelled()], "weights", False), weights(1), context()
    blob = made.encode(update, asked).blob
    node = made.read(blob, layout(update))["4.weight"]
    _, _, labels_i, ranges = (part.array for part in node.parts)
    assert labels_i.shape == (192,)
    assert ranges[0] < ranges[1]
    torch.testing.assert_close(made.decode(blob, layout(update))["4.weight"], update["4.weight"], rtol=0, atol=1e-3)


class Quadratic:
    """Clients with quadratic losses whose mean has a known optimum: what many rounds of lossy uploads must still find."""

    def __init__(self, clients: int) -> None:
        self.targets = [normal(16, 20, seed=n) for n in range(clients)]
        self.optimum = sum(self.targets) / clients

    def after(self, rounds: int, **fields: Any) -> float:
        made, x = codec(**fields), torch.zeros(16, 20)
        states: list[dict[str, Tensor]] = [{} for _ in self.targets]
        for number in range(rounds):
            base, mean = Base({"x": x}), torch.zeros_like(x)
            for client, target in enumerate(self.targets):
                update = {"x": x + 0.05 * (target - x)}
                encoded = made.encode(update, Context(base, stream(1000 * number + client), state=states[client]))
                states[client] = encoded.state
                mean += made.decode(encoded.blob, layout(update), base)["x"] / len(self.targets)
            x = mean
        return float((x - self.optimum).norm() / self.optimum.norm())


@pytest.mark.parametrize("chain", ["topk", "svd", "powersgd", "int4"])
def test_error_feedback_lets_many_rounds_converge(chain):
    """Clients disagree, so their deltas never vanish: without feedback the biased losses would stay."""
    federation = Quadratic(4)
    fields: dict[str, Any] = {"chain": chain, **({"ratio": 0.3} if chain == "svd" else {})}
    with_feedback = federation.after(150, **fields)
    without = federation.after(150, **fields, error_feedback=False)
    assert with_feedback < 0.5 * without
    assert np.isfinite(without)


def test_parameters_that_want_gradients_are_taken_as_they_are():
    """What comes from `named_parameters` need not be detached by hand, at either end."""
    update = {"x": torch.nn.Parameter(normal(20, 30))}
    base = Base({"x": torch.nn.Parameter(normal(20, 30, seed=1))})
    encoded = codec("int8").encode(update, Context(base))
    decoded = codec("int8").decode(encoded.blob, layout(update), base)
    assert not any(x.requires_grad for x in (*decoded.values(), *encoded.state.values()))

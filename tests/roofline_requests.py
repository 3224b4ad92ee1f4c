"""Random requests to the roofline simulator, and where their fields are; valid by construction."""

from __future__ import annotations

from hypothesis import strategies as st

from fedcosim.hwsim.devices import Device, Efficiency, Peak, devices
from fedcosim.hwsim.roofline.architecture import Architecture
from fedcosim.hwsim.roofline.llm import LlmRequest
from fedcosim.hwsim.roofline.simulator import ModelRequest, RooflineRequest
from fedcosim.hwsim.roofline.workload import Footprint, Operator, Workload

AMOUNTS = st.integers(0, 2**40)
RATES = st.floats(1e-6, 1e20)
PRECISIONS = st.sampled_from(["fp32", "fp16", "bf16", "int8", "int4"])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


def devices_with(present: bool) -> st.SearchStrategy[Device]:
    """Random devices; what a workload may need is there for certain, or perhaps."""
    needed = RATES if present else maybe(RATES)
    return st.builds(
        Device,
        summary=NAMES,
        peak=st.builds(Peak, **{name: needed if name == "fp32" else maybe(RATES) for name in Peak.model_fields}),
        memory_bytes_per_s=RATES,
        memory_bytes=maybe(st.integers(1, 2**50)),
        memory_kind=st.sampled_from(["ddr", "lpddr", "hbm2", "gddr6"]),
        buffer_bytes=maybe(st.integers(1, 2**30)),
        link_bytes_per_s=needed,
        max_power_w=maybe(RATES),
        idle_power_w=maybe(st.floats(0.5, 1e5)),
        efficiency=st.builds(
            Efficiency, compute=st.floats(1e-6, 1), memory=st.floats(1e-6, 1), overhead_s=st.floats(1e-9, 0.5)
        ),
    )


DEVICES, COMPLETE_DEVICES = devices_with(False), devices_with(True)
OPERATORS = st.builds(
    Operator,
    name=NAMES,
    phase=st.sampled_from(["inference", "forward", "backward", "optimizer", "prefill", "decode"]),
    count=st.integers(1, 1000),
    **{name: AMOUNTS for name in Operator.model_fields if name.endswith("bytes") or name == "flops"},
)
WORKLOADS = st.builds(
    Workload,
    operators=st.lists(OPERATORS, min_size=1, max_size=5).map(tuple),
    footprint=st.builds(Footprint, **dict.fromkeys(Footprint.model_fields, AMOUNTS)),
    precision=PRECISIONS,
    uncounted=st.lists(NAMES, max_size=2).map(tuple),
)
MODELS = st.builds(
    ModelRequest,
    name=NAMES,
    batch=st.integers(1, 2**20),
    train=st.booleans(),
    optimizer=st.sampled_from(["sgd", "momentum", "adam", "adamw"]),
    per_sample=st.booleans(),
    precision=PRECISIONS,
    **{name: maybe(st.integers(1, 65_536)) for name in ("channels", "height", "width", "classes")},
)
BITS = st.sampled_from([2, 3, 4, 6, 8, 16, 32])
SIZES = {"batch": st.integers(1, 64), "context": st.integers(1, 500)}
WIDTHS = {"weight_bits": BITS, "activation_bits": BITS, "kv_bits": BITS}
OWN_LLM = st.builds(
    Architecture,
    hidden_size=st.sampled_from([64, 128]),
    layers=st.integers(1, 9),
    heads=st.sampled_from([4, 8]),
    kv_heads=st.sampled_from([2, 4]),
    intermediate_size=st.sampled_from([96, 256]),
    vocab_size=st.integers(0, 999),
    max_positions=st.just(4096),
    gated=st.booleans(),
    biases=st.booleans(),
)
LLMS = st.one_of(
    st.builds(
        LlmRequest, model=st.sampled_from(["llama-2-7b", "gpt2"]), tensor_parallel=st.sampled_from([1, 2]), **SIZES, **WIDTHS
    ),
    st.builds(LlmRequest, architecture=OWN_LLM, stage=st.just("generate"), generated=st.integers(1, 99), **SIZES, **WIDTHS),
)
EITHER_DEVICE = st.one_of(
    st.fixed_dictionaries({"device": st.sampled_from(sorted(devices()))}), st.fixed_dictionaries({"custom": DEVICES})
)


def requests(models: st.SearchStrategy = MODELS) -> st.SearchStrategy[RooflineRequest]:
    """Random valid requests, with these models among them."""
    work = [st.fixed_dictionaries({name: s}) for name, s in (("workload", WORKLOADS), ("model", models), ("llm", LLMS))]
    rest = st.fixed_dictionaries(
        {
            "energy_model": st.sampled_from(["7nm", "45nm"]),
            "precision_fallback": st.booleans(),
            "most_operators": st.integers(0, 100_000),
        }
    )
    return st.builds(lambda where, what, rest: RooflineRequest(**where, **what, **rest), EITHER_DEVICE, st.one_of(work), rest)

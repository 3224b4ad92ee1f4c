"""Memory in two tiers on the clients' devices: `[hardware] memory = "neomem"`.

A step of a client's training is run through the NeoMem simulator (docs/hwsim/neomem.md) as the memory behaviour of a model of
its sizes, with the roofline's time as its computing time; what comes out is how many times longer the step takes than with
fast memory alone.

Ours: steps are repeated for ten simulated seconds from a cold start, at least ten times and as long as that makes no more than
2^24 accesses. Per-sample gradients (DP-SGD) count as activations, which are written and read once as well; state of the
optimizer is one or two moments as large as the weights. Fast memory has the device's bandwidth, slow memory the platform's
where that is less; latencies are the platform's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ..core.options import Options

if TYPE_CHECKING:
    from ..hwsim.neomem import NeoMemRequest
    from ..hwsim.roofline.estimate import RooflineReport
    from ..hwsim.roofline.workload import Footprint

SIMULATED_S = 10.0
FEWEST_STEPS = 10
MOST_ACCESSES = 2**24


class NeoMemOptions(Options):
    """Part of every device's memory is slow, behind CXL, and pages move between the tiers."""

    policy: Literal["neomem", "first_touch", "autonuma", "tpp", "pte_scan", "pebs", "memtis"] = "neomem"
    """Who moves pages."""
    fast_to_slow: Annotated[float, Field(gt=0, le=1e6)] = 0.5
    """The part of a client's work that fits fast memory, over the rest: 0.5 is a third."""
    profile: Literal["paper", "artifact"] = "paper"
    """Whether NeoMem's daemon is the paper's or the artifact's, where they differ."""
    platform: Literal["fpga_micro24", "asic_cxl2"] = "fpga_micro24"
    """Whose latencies and slow bandwidth: the paper's FPGA device, or an expander as one can buy."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Threads of a device that wait for memory at the same time; the platform's 32 when absent."""


def memory_request(options: NeoMemOptions, footprint: Footprint, roofline: RooflineReport) -> NeoMemRequest:
    """Return what to ask of the NeoMem simulator; its report's `slowdown_vs_all_fast` is the answer.

    Parameters
    ----------
    footprint : Footprint
        What a training step holds in memory.
    roofline : RooflineReport
        The step on the device, all memory fast.
    """
    from ..hwsim.neomem import NeoMemRequest  # compiles kernels: only where memory is simulated
    from ..hwsim.neomem.machine import PlatformOptions, auto_scale
    from ..hwsim.neomem.training import TrainingOptions, footprint_pages, touches_per_step

    platform = PlatformOptions(preset=options.platform, fast_to_slow=options.fast_to_slow, threads=options.threads)
    bandwidth = roofline.memory_bytes_per_s
    slower = min(bandwidth, platform.value("slow_bytes_per_s"))
    per_sample_bytes = max(0, footprint.gradients_bytes - footprint.weights_bytes)
    moments = min(2, math.ceil(footprint.optimizer_bytes / max(1, footprint.weights_bytes)))
    step = TrainingOptions(
        param_count=max(1, footprint.weights_bytes),
        bytes_per_param=1,
        optimizer=("sgd", "momentum", "adam")[moments],  # type: ignore[arg-type]
        activation_bytes_per_sample=footprint.activations_bytes + per_sample_bytes,
        batch=1,
        sample_bytes=footprint.inputs_bytes,
        compute_seconds_per_step=roofline.time_s,
        steps=FEWEST_STEPS,
    )
    unit_bytes = platform.page_bytes * auto_scale(footprint_pages(step, platform.page_bytes))
    most = max(FEWEST_STEPS, MOST_ACCESSES // touches_per_step(step, unit_bytes))
    steps = min(most, max(FEWEST_STEPS, math.ceil(SIMULATED_S / roofline.time_s)))
    return NeoMemRequest(
        training=step.model_copy(update={"steps": steps}),
        platform=platform.model_copy(update={"fast_bytes_per_s": bandwidth, "slow_bytes_per_s": slower}),
        policy=options.policy,
        profile=options.profile,
    )

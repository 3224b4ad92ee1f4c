"""What can be asked of the NeoMem simulator."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ...core.options import Options
from .constants import constant
from .daemon import DaemonOptions, Profile
from .generators import SyntheticOptions
from .machine import AccessOptions, PlatformOptions
from .neoprof import NeoProfOptions
from .policies import PolicyName
from .policies.hint_faults import AutoNumaOptions, TppOptions
from .policies.oracles import OracleOptions
from .policies.pte_scan import PteScanOptions
from .policies.sampling import MemtisOptions, PebsOptions
from .training import TrainingOptions


class NeoMemRequest(Options):
    """A workload on a machine with two tiers of memory, under a policy that moves pages, compared with others.

    Exactly one of `training`, `synthetic` and `trace_id` is given.
    """

    training: TrainingOptions | None = None
    """A model's training steps."""
    synthetic: SyntheticOptions | None = None
    """A generated trace."""
    trace_id: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """A trace that was uploaded."""
    repeats: Annotated[int, Field(ge=1, le=10**6)] = 1
    """Times that the uploaded trace is run, one after the other."""
    compute_seconds: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Time of one run through the uploaded trace, memory aside, spread evenly over it: another way to give `access.c0_ns`."""
    platform: PlatformOptions = PlatformOptions(fast_to_slow=0.5)
    """The machine."""
    access: AccessOptions = AccessOptions()
    """How the workload waits for memory."""
    policy: PolicyName = "neomem"
    """Who moves pages."""
    against: list[PolicyName] = Field(default_factory=list, max_length=12)
    """Policies that the speed is compared with, on the same trace; first_touch and all_fast always are."""
    profile: Profile = "paper"
    """Whether NeoMem's daemon is the paper's or the artifact's, where they differ."""
    scale: Annotated[int, Field(ge=1, le=2**20)] | None = None
    """A power of two by which everything is shrunk; absent: 1 for an uploaded trace, else what leaves 32768 pages at most."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Of generators and samplers."""
    warmup_accesses: Annotated[int, Field(ge=0)] = 0
    """Accesses at the start that figures leave out."""
    tick_ms: Annotated[float, Field(ge=1e-3, le=1e6)] = constant("cost.tick_ms")
    """Length of an epoch, at whose end policies act."""
    neomem: DaemonOptions = DaemonOptions()
    neoprof: NeoProfOptions = NeoProfOptions()
    autonuma: AutoNumaOptions = AutoNumaOptions()
    tpp: TppOptions = TppOptions()
    pte_scan: PteScanOptions = PteScanOptions()
    pebs: PebsOptions = PebsOptions()
    memtis: MemtisOptions = MemtisOptions()
    oracle: OracleOptions = OracleOptions()

    @model_validator(mode="after")
    def _consistent(self) -> NeoMemRequest:
        given = [name for name in ("training", "synthetic", "trace_id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"training: give exactly one of training, synthetic and trace_id, not {' and '.join(given) or 'none'}"
            )
        if self.repeats > 1 and self.trace_id is None:
            raise ValueError(f"repeats = {self.repeats}: is for trace_id; other workloads have a length of their own")
        if self.compute_seconds is not None and (self.trace_id is None or self.access.c0_ns is not None):
            raise ValueError(f"compute_seconds = {self.compute_seconds}: is for trace_id, and in place of access.c0_ns")
        if self.scale is not None and self.scale & (self.scale - 1):
            raise ValueError(f"scale = {self.scale}: not a power of two")
        return self

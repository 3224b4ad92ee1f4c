"""The machine that is simulated: two tiers of memory, threads, and the scale at which everything is shrunk.

A real run makes some 10^10 accesses to memory. At scale S one simulated page and access stand for S: pages, capacities, the
profiler's tables, quotas and sampling rates shrink by S, the time of an access grows by S, and intervals stay. Thresholds,
seconds to converge and ratios of speed are then the same at all scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from ...core.options import Options
from ..simulator import HwsimError
from .constants import constant, constants, section

MAX_PAGES = 2**24
"""Simulated pages of a request at most."""
_AUTO_PAGES = 2**15
_LatencyNs = Annotated[float, Field(gt=0, le=1e6)]
_Rate = Annotated[float, Field(ge=1e3, le=1e15)]


class PlatformOptions(Options):
    """The tiers. Exactly one of `fast_bytes` and `fast_to_slow` is given; what else is absent comes from the preset."""

    preset: str = "fpga_micro24"
    """The paper's FPGA device, or `asic_cxl2`, an expander as one can buy."""
    fast_latency_ns: _LatencyNs | None = None
    """Latency of fast memory."""
    slow_latency_ns: _LatencyNs | None = None
    """Latency of slow memory; not below that of fast memory."""
    fast_bytes_per_s: _Rate | None = None
    """Bandwidth of fast memory."""
    slow_bytes_per_s: _Rate | None = None
    """Bandwidth of slow memory."""
    fast_bytes: Annotated[int, Field(ge=0, le=2**50)] | None = None
    """Capacity of fast memory."""
    fast_to_slow: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """The part of the footprint that fits fast memory, over the rest: 0.5 is a third. Slow memory then has room for all."""
    slow_bytes: Annotated[int, Field(ge=0, le=2**50)] | None = None
    """Capacity of slow memory, where `fast_bytes` is given."""
    page_bytes: Annotated[int, Field(ge=64, le=2**30)] = 4096
    """A power of two."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Threads that access memory."""

    @field_validator("page_bytes")
    @classmethod
    def _power_of_two(cls, page_bytes: int) -> int:
        if page_bytes & (page_bytes - 1):
            raise ValueError("not a power of two; 4096 is usual")
        return page_bytes

    @model_validator(mode="after")
    def _one_size(self) -> PlatformOptions:
        if (self.fast_bytes is None) == (self.fast_to_slow is None):
            raise ValueError("platform.fast_bytes: give exactly one of fast_bytes and fast_to_slow")
        if self.slow_bytes is not None and self.fast_bytes is None:
            raise ValueError("platform.slow_bytes: needs fast_bytes; with fast_to_slow, slow memory has room for all")
        return self

    def value(self, name: str) -> float:
        """Return a field: what was given, or what the preset says.

        Raises
        ------
        HwsimError
            NOT_FOUND if there is no such preset.
        """
        given = getattr(self, name)
        if given is not None:
            return given
        if self.preset not in presets():
            known = ", ".join(presets())
            raise HwsimError(f"platform.preset = {self.preset!r}: choose one of {known}", "NOT_FOUND", "platform.preset")
        return constant(f"platform.{self.preset}.{name}")


def presets() -> list[str]:
    """Return the names of the platforms there are."""
    return list(constants()["platform"])


class AccessOptions(Options):
    """How a workload waits for memory: an access takes (c0 + max(0, k x latency - overlap x c0)) / threads."""

    c0_ns: Annotated[float, Field(ge=0, le=1e12)] | None = None
    """A thread's time for one access, memory aside; absent: the workload's own."""
    k: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Latencies one after the other in one access; below 1 for several at a time. Absent: the workload's own."""
    overlap: Annotated[float, Field(ge=0, le=1)] | None = None
    """The part of `c0_ns` that hides latency; absent: the workload's own."""


@dataclass(frozen=True)
class Access:
    """Settled `AccessOptions`, and how many bytes an access moves."""

    c0_ns: float
    k: float
    overlap: float
    bytes: int

    def ns(self, latency_ns: float, threads: int) -> float:
        """Return the time between two accesses of all threads together."""
        return (self.c0_ns + max(0.0, self.k * latency_ns - self.overlap * self.c0_ns)) / threads

    @classmethod
    def settle(cls, options: AccessOptions, kind: str, bytes_: int, **own: float) -> Access:
        """Fill in what is absent from the workload itself or from the constants of its kind."""
        given = {name: value for name, value in options.model_dump().items() if value is not None}
        known = section(f"access.{kind}" if kind in constants()["access"] else "access.default")
        return cls(**(known | own | given), bytes=bytes_)


@dataclass(frozen=True)
class Machine:
    """A platform at a scale: pages are simulated pages, latencies and bandwidths are real.

    Attributes
    ----------
    latency_ns, bytes_per_s : (float, float)
        Of slow and of fast memory.
    """

    scale: int
    threads: int
    page_bytes: int
    pages: int
    fast_pages: int
    slow_pages: int
    latency_ns: tuple[float, float]
    bytes_per_s: tuple[float, float]
    access: Access
    tick_ps: int


def auto_scale(pages: int) -> int:
    """Return the least power of two that leaves no more than 32768 pages."""
    return 1 << max(0, (pages - 1) // _AUTO_PAGES).bit_length()


def build(platform: PlatformOptions, pages: int, scale: int, access: Access, tick_ms: float) -> Machine:
    """Settle the machine for a footprint.

    Raises
    ------
    HwsimError
        FAILED_PRECONDITION if the footprint exceeds both tiers; RESOURCE_EXHAUSTED if it has too many pages to simulate;
        INVALID_ARGUMENT if slow memory is faster than fast memory.
    """
    fast_ns, slow_ns = platform.value("fast_latency_ns"), platform.value("slow_latency_ns")
    if slow_ns < fast_ns:
        raise HwsimError(
            f"platform.slow_latency_ns = {slow_ns:g}: below fast memory's latency; choose at least {fast_ns:g}",
            field="platform.slow_latency_ns",
        )
    if pages > MAX_PAGES:
        raise HwsimError(
            f"scale = {scale}: {pages} pages to simulate; at most {MAX_PAGES}, so choose a larger scale",
            "RESOURCE_EXHAUSTED",
            "scale",
        )
    unit = platform.page_bytes * scale
    if platform.fast_to_slow is not None:
        ratio = platform.fast_to_slow
        fast, slow = round(pages * ratio / (1 + ratio)), pages
    else:
        fast, slow = int(platform.value("fast_bytes")) // unit, int(platform.value("slow_bytes")) // unit
        if pages > fast + slow:
            raise HwsimError(
                f"platform.fast_bytes = {platform.fast_bytes}: the workload's footprint of {pages * unit} bytes exceeds fast "
                f"and slow memory together ({(fast + slow) * unit} bytes); choose larger tiers or a smaller workload",
                "FAILED_PRECONDITION",
                "platform.fast_bytes",
            )
    return Machine(
        scale=scale,
        threads=int(platform.value("threads")),
        page_bytes=platform.page_bytes,
        pages=pages,
        fast_pages=fast,
        slow_pages=slow,
        latency_ns=(slow_ns, fast_ns),
        bytes_per_s=(platform.value("slow_bytes_per_s"), platform.value("fast_bytes_per_s")),
        access=access,
        tick_ps=round(tick_ms * 1e9),
    )

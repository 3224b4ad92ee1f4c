"""NeoMem's part in the operating system: reads the profiler, sets its threshold, says which pages to promote.

Source: arXiv:2403.18702, section 5 and algorithm 1; what the paper leaves open from the authors' kernel (PKUZHOU/linux).

Paper and artifact differ, and `profile` chooses: the artifact's quota is so high that it never binds, its histogram is read
every 5 s while the threshold is updated every second, it never compares threshold and error bound, and it writes the threshold
(which clears the sketch) even where it stays the same.

Ours: pages that the quota does not allow any more wait in the host, oldest first, and what waits is gone through
once the next period begins; one migration thread moves pages, so that an interval has time for a limited number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ...core.options import Options
from .constants import section
from .neoprof import BINS, EDGES_B

Profile = Literal["paper", "artifact"]
Seconds = Annotated[float, Field(ge=1e-6, le=1e6)]
ERROR_SHARE = 0.5
"""delta^(1/D) at confidence delta = 2^-D: the sketch's error exceeds the median of a row with that probability (section 4)."""
Share = Annotated[float, Field(gt=0, le=1)]

_NONE = np.empty(0, np.int64)


class DaemonOptions(Options):
    """NeoMem's settings; absent ones are the profile's."""

    interval_ms: Annotated[float, Field(ge=1e-3, le=1e6)] | None = None
    """Time between two looks at the device."""
    clear_period_s: Seconds | None = None
    """Time between resets of the device."""
    histogram_period_s: Seconds | None = None
    """Time between readings of the histogram."""
    threshold_period_s: Seconds | None = None
    """Time between updates of the threshold; the quota is for this time too."""
    theta0: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """The threshold to begin with."""
    threshold: Literal["dynamic", "fixed"] = "dynamic"
    """Fixed: keep `theta0` for good."""
    p_init: Share | None = None
    """Share of the sketch's counters above the threshold, to begin with."""
    p_min: Share | None = None
    """Its least value."""
    p_max: Share | None = None
    """Its largest value."""
    alpha: Annotated[float, Field(ge=0, le=100)] | None = None
    """Exponent of the bandwidth's influence."""
    beta: Annotated[float, Field(ge=0, le=100)] | None = None
    """Exponent of ping-pong's influence."""
    quota_bytes_per_s: Annotated[float, Field(gt=0, le=1e15)] | None = None
    """Promotions allowed."""

    @model_validator(mode="after")
    def _ordered(self) -> DaemonOptions:
        p_min, p_init, p_max = (self.value(name, "paper") for name in ("p_min", "p_init", "p_max"))
        if not p_min <= p_init <= p_max:
            raise ValueError(f"p_init = {p_init}: must lie between p_min = {p_min} and p_max = {p_max}")
        return self

    def value(self, name: str, profile: Profile) -> float:
        """Return a setting: what was given, or what the profile says."""
        given = getattr(self, name)
        return (section("neomem.paper") | section(f"neomem.{profile}"))[name] if given is None else given


def quantile(bins_B: Sequence[int], share: float) -> int:
    """Return the count that `share` of the counters reach: the lower edge of the bin where that is; at least 1."""
    total, above = sum(bins_B), 0
    for bin_ in range(BINS - 1, -1, -1):
        above += bins_B[bin_]
        if above >= share * total:
            return max(1, int(EDGES_B[bin_]))
    return 1


def next_share(
    p: float, bandwidth: float, ping_pong: float, over_quota: bool, p_min: float, p_max: float, alpha: float, beta: float
) -> float:
    """Take step 1 of algorithm 1: the share of counters to be above the threshold."""
    if over_quota:
        return max(p_min, p / 2)
    return min(p_max, max(p_min, p * (1 + bandwidth) ** alpha / (1 + ping_pong) ** beta))


class Device(Protocol):
    """What the daemon needs of a profiler: its registers."""

    theta: int

    def reset(self) -> None: ...  # noqa: D102
    def set_threshold(self, theta: int) -> None: ...  # noqa: D102
    def start_hist(self, now_ps: int) -> None: ...  # noqa: D102
    def nr_hotpages(self) -> int: ...  # noqa: D102
    def pop_hotpages(self, count: int) -> NDArray[np.int64]: ...  # noqa: D102
    def nr_hist(self) -> int: ...  # noqa: D102
    def pop_hist(self) -> int: ...  # noqa: D102
    def state_counts(self) -> tuple[int, int, int]: ...  # noqa: D102


class Daemon:
    """The kernel thread.

    Parameters
    ----------
    device : Device
    options : DaemonOptions
    profile : {"paper", "artifact"}
    pages_per_byte : float
        Simulated pages a byte of the quota.

    Attributes
    ----------
    theta, p : int, float
        Threshold, and the share of counters that are to be above it.
    error_bounds : list of int
        What the sketch's error was bounded by at each update.
    """

    def __init__(self, device: Device, options: DaemonOptions, profile: Profile, pages_per_byte: float) -> None:
        self.device, self.options, self.profile = device, options, profile
        self.p = self._setting("p_init")
        self.theta = int(self._setting("theta0"))
        self.quota_pages = self._setting("quota_bytes_per_s") * self._setting("threshold_period_s") * pages_per_byte
        self.error_bounds: list[int] = []
        self._bins_B: list[int] = []
        self._migrated = self._ping_pongs = 0
        self._due_ps = {name: self._period_ps(name) for name in ("histogram", "threshold", "clear")}
        device.reset()
        device.set_threshold(self.theta)

    def collect(self) -> NDArray[np.int64]:
        """Pop all hot pages that wait in the device."""
        waiting = self.device.nr_hotpages()
        return self.device.pop_hotpages(waiting) if waiting else _NONE

    @property
    def allowance(self) -> int:
        """How many pages the quota still allows in this period."""
        return max(0, int(np.ceil(self.quota_pages)) - self._migrated)

    def account(self, migrated: int, ping_pongs: int) -> None:
        """Note what has been promoted, and how many of the reported pages had been demoted before."""
        self._migrated += migrated
        self._ping_pongs += ping_pongs

    def update(self, now_ps: int) -> None:
        """Do what is due: read the histogram, set the threshold, reset the device."""
        total, read, write = self.device.state_counts()
        bandwidth = (read + write) / total if total else 0.0
        if self._due("histogram", now_ps):
            self.device.start_hist(now_ps)
            self._bins_B = [self.device.pop_hist() for _ in range(self.device.nr_hist())]
        if self._due("threshold", now_ps):
            if self._bins_B and self.options.threshold == "dynamic":
                self._set_threshold(bandwidth)
            self._migrated = self._ping_pongs = 0
        if self._due("clear", now_ps):
            self.device.reset()

    def _set_threshold(self, bandwidth: float) -> None:
        p_min, p_max, alpha, beta = (self._setting(name) for name in ("p_min", "p_max", "alpha", "beta"))
        ping_pong = self._ping_pongs / (self._migrated + 1)
        over_quota = self._migrated >= self.quota_pages
        self.p = next_share(self.p, bandwidth, ping_pong, over_quota, p_min, p_max, alpha, beta)
        error = quantile(self._bins_B, ERROR_SHARE)
        self.error_bounds.append(error)
        if self.profile == "paper" and quantile(self._bins_B, self.p) < error:
            self.p = max(p_min, self.p / 2)
        theta = quantile(self._bins_B, self.p)
        if theta != self.theta or self.profile == "artifact":
            self.device.set_threshold(theta)
        self.theta = theta

    def _setting(self, name: str) -> float:
        return self.options.value(name, self.profile)

    def _period_ps(self, name: str) -> int:
        return round(self._setting(f"{name}_period_s") * 1e12)

    def _due(self, name: str, now_ps: int) -> bool:
        if now_ps < self._due_ps[name]:
            return False
        period = self._period_ps(name)
        self._due_ps[name] = now_ps // period * period + period
        return True

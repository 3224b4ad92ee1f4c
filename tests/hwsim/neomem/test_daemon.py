"""Algorithm 1, on its worked values and on a device that answers from a script."""

from __future__ import annotations

import numpy as np
import pytest

from fedcosim.core.errors import SpecError
from fedcosim.core.options import validate
from fedcosim.hwsim.neomem.daemon import Daemon, DaemonOptions, next_share, quantile
from fedcosim.hwsim.neomem.neoprof import BINS

LIMITS = {"p_min": 0.0001, "p_max": 0.0156, "alpha": 1, "beta": 2}
S = 10**12


def bins(**counts: int) -> list[int]:
    filled = [0] * BINS
    for bin_, count in counts.items():
        filled[int(bin_[1:])] = count
    return filled


class Scripted:
    """A device with a given histogram and bandwidth; notes what it is told."""

    def __init__(self, histogram: list[int], state: tuple[int, int, int] = (100, 0, 0)) -> None:
        self.theta = 0
        self.histogram, self.state, self.written, self.resets, self.readings = histogram, state, [], 0, 0
        self.fifo: list[int] = []
        self._left: list[int] = []

    def reset(self) -> None:
        self.resets += 1

    def set_threshold(self, theta: int) -> None:
        self.written.append(theta)

    def start_hist(self, now_ps: int) -> None:
        self.readings += 1
        self._left = list(self.histogram)

    def nr_hotpages(self) -> int:
        return len(self.fifo)

    def pop_hotpages(self, count: int) -> np.ndarray:
        return np.array(self.fifo[:count], np.int64)

    def nr_hist(self) -> int:
        return len(self._left)

    def pop_hist(self) -> int:
        return self._left.pop(0)

    def state_counts(self) -> tuple[int, int, int]:
        return self.state


@pytest.mark.parametrize(
    ("p", "bandwidth", "ping_pong", "over_quota", "expected"),
    [
        (0.001, 0.5, 0.0, False, 0.0015),
        (0.001, 0.0, 1.0, False, 0.00025),
        (0.001, 0.5, 0.0, True, 0.0005),
        (0.00015, 0.0, 1.0, False, 0.0001),
        (0.00015, 2.0, 0.0, True, 0.0001),
        (0.0100, 1.0, 0.0, False, 0.0156),
    ],
)
def test_share_moves_as_algorithm_1_says(p, bandwidth, ping_pong, over_quota, expected):
    """Up with bandwidth, down with the square of ping-pong, halved beyond the quota, within its limits."""
    assert next_share(p, bandwidth, ping_pong, over_quota, **LIMITS) == pytest.approx(expected)


def test_quantile_is_the_lower_edge_of_the_bin_reached_from_the_top():
    """From below, or the bin's index instead of its edge, would be another threshold altogether."""
    filled = bins(b0=984, b20=10, b40=6)
    assert quantile(filled, 0.006) == 248  # the edge of bin 40
    assert quantile(filled, 0.0061) == 40  # the edge of bin 20
    assert quantile(filled, 0.5) == 1


def test_threshold_comes_from_histogram_bandwidth_and_ping_pong():
    """One period, by hand: p = 0.001 x 1.5 / (1 + 2/4)^2 = 0.00067, which 1 counter of 1000 reaches."""
    device = Scripted(bins(b0=900, b30=99, b50=1), (100, 30, 20))
    daemon = Daemon(device, DaemonOptions(), "paper", 1 / 4096)
    daemon.account(3, 2)
    daemon.update(S)
    assert daemon.p == pytest.approx(0.001 * 1.5 / 1.5**2)
    assert device.written == [10, daemon.theta]
    assert daemon.theta == 632  # the edge of bin 50


def test_paper_halves_the_share_once_more_where_the_sketch_is_not_to_be_trusted():
    """E, the median, is above the quantile only where all counters lie in one bin or p is large; then p halves again."""
    histogram = bins(b5=400, b6=600)
    options = DaemonOptions(p_init=0.9, p_min=0.1, p_max=1.0)
    paper, artifact = (Daemon(Scripted(histogram), options, profile, 1.0) for profile in ("paper", "artifact"))
    for daemon in (paper, artifact):
        daemon.update(5 * S)
    assert (paper.p, paper.theta) == (0.45, 6)
    assert (artifact.p, artifact.theta) == (0.9, 5)
    assert paper.error_bounds == [6]


def test_periods_are_the_profile_s():
    """Paper: histogram each second. Artifact: every five, so that five updates share one; and it writes equal thresholds."""
    written, readings, resets = {}, {}, {}
    for profile in ("paper", "artifact"):
        device = Scripted(bins(b0=1000, b10=100))
        daemon = Daemon(device, DaemonOptions(), profile, 1.0)
        for tick in range(1, 1001):
            daemon.update(tick * S // 100)
        written[profile], readings[profile], resets[profile] = len(device.written), device.readings, device.resets
    assert readings == {"paper": 10, "artifact": 2}
    assert written == {"paper": 2, "artifact": 7}  # the first is theta0; the artifact's begin with its histogram, after 5 s
    assert resets == {"paper": 3, "artifact": 3}


def test_quota_is_for_a_period():
    """256 MB/s of 4 KiB pages are 65536 a second."""
    daemon = Daemon(Scripted(bins(b0=1)), DaemonOptions(), "paper", 1 / 4096)
    assert daemon.allowance == 65536
    daemon.account(65000, 0)
    assert daemon.allowance == 536
    daemon.update(S)
    assert daemon.allowance == 65536


def test_fixed_threshold_stays():
    """For comparing with the dynamic one."""
    device = Scripted(bins(b0=1, b40=1))
    Daemon(device, DaemonOptions(threshold="fixed", theta0=7), "paper", 1.0).update(10 * S)
    assert device.written == [7]


def test_shares_out_of_order_are_refused():
    """p_min <= p_init <= p_max."""
    with pytest.raises(SpecError, match=r"p_init = 0.5: must lie between p_min = 0.0001 and p_max = 0.0156"):
        validate(DaemonOptions, {"p_init": 0.5})

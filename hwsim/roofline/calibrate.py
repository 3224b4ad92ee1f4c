"""What this computer attains: the roofs that its processor and memory have for torch, per type of number.

Matrix products give the peak rates, long copies the bandwidth, an addition of two numbers the overhead of an operator. The
best of several tries counts; one thread is timed on its own clock, so that other work on the computer hurts less.
"""

from __future__ import annotations

import platform
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from ..devices import Device, Efficiency, Peak, own_file

_SIDE = 1536  # of a square matrix: 9 MB in fp32, beyond what a core keeps close
_STREAM_NUMBERS = 2**27  # 512 MB: beyond most caches; servers with larger ones measure those
_TRIES = 5


def measure(threads: int = 1) -> Device:
    """Measure for a few seconds.

    Parameters
    ----------
    threads : int
        How many torch is given meanwhile.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            rates = {name: _matmul_rate(getattr(torch, dtype), threads) for name, dtype in _DTYPES.items()}
            return Device(
                summary=f"{platform.node()}, {_processor()}, {threads} thread{'s' if threads > 1 else ''}, measured",
                peak=Peak(**rates),
                memory_bytes_per_s=_copy_rate(threads),
                memory_bytes=_memory_bytes(),
                efficiency=Efficiency(overhead_s=_overhead_s()),
            )
    finally:
        torch.set_num_threads(before)


_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def best_s(work: Callable[[], Any], threads: int = 1, tries: int = _TRIES, at_least_s: float = 0.05) -> float:
    """Return the shortest time that some work took, in seconds.

    One thread is timed on its own clock, several on the wall's.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    work()
    repeats = 1
    while True:
        started = clock()
        for _ in range(repeats):
            work()
        if (took := clock() - started) >= at_least_s:
            break
        repeats = max(repeats * 2, int(repeats * at_least_s / max(took, 1e-6)))
    times = [took / repeats]
    for _ in range(tries - 1):
        started = clock()
        for _ in range(repeats):
            work()
        times.append((clock() - started) / repeats)
    return min(times)


def _matmul_rate(dtype: Any, threads: int) -> float:
    import torch

    a, b = torch.ones(_SIDE, _SIDE, dtype=dtype), torch.ones(_SIDE, _SIDE, dtype=dtype)
    out = torch.empty(_SIDE, _SIDE, dtype=dtype)
    return 2 * _SIDE**3 / best_s(lambda: torch.mm(a, b, out=out), threads)


def _copy_rate(threads: int) -> float:
    import torch

    source, target = torch.ones(_STREAM_NUMBERS), torch.empty(_STREAM_NUMBERS)
    return 8 * _STREAM_NUMBERS / best_s(lambda: target.copy_(source), threads)


def _overhead_s() -> float:
    import torch

    a, b, out = torch.ones(1), torch.ones(1), torch.empty(1)
    return best_s(lambda: torch.add(a, b, out=out))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal")), None)


def add(name: str, device: Device) -> Path:
    """Put a measured device into your own file of devices; return the file."""
    path = own_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entries[name] = _with_origin(device.model_dump(mode="json", exclude_none=True))
    path.write_text(tomli_w.dumps(entries), encoding="utf-8")
    return path


def _with_origin(fields: dict[str, Any]) -> dict[str, Any]:
    """Say of every figure that it was measured."""

    def measured(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: measured(item) for key, item in value.items()}
        if isinstance(value, str):
            return value
        return {"value": value, "kind": "measured", "source": "fedcosim hwsim calibrate"}

    return measured(fields)

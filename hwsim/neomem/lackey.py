"""Traces from Valgrind: ``valgrind --tool=lackey --trace-mem=yes PROGRAM`` writes a line for every access of any program.

The addresses are virtual, of user space only, before any cache: see `llc`. Instruction fetches are left out.

Shapes: N = accesses.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..simulator import HwsimError

_WRITES = {" L": 0, " S": 1, " M": 1}  # loads, stores, and loads that are followed by a store to the same address


def read(lines: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the byte addresses of data accesses and 1 for those that store, shapes (N,).

    Lines of other kinds, such as Valgrind's own messages, are passed over.

    Raises
    ------
    HwsimError
        INVALID_ARGUMENT if a line begins as an access does and does not go on like one.
    """
    addresses: list[int] = []
    writes = bytearray()
    for number, line in enumerate(lines, 1):
        write = _WRITES.get(line[:2])
        if write is None:
            continue
        try:
            addresses.append(int(line[3 : line.index(",")], 16))
        except ValueError:
            raise HwsimError(f"trace: line {number} is {line.strip()!r}; expected ' L address,size'", field="trace") from None
        writes.append(write)
    return np.array(addresses, np.int64), np.frombuffer(bytes(writes), np.uint8)

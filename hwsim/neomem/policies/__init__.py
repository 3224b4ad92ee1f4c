"""Tiering policies by name."""

from __future__ import annotations

from typing import Literal

from .base import FirstTouch, Policy, System
from .hint_faults import AutoNuma, Tpp
from .neomem import NeoMem
from .oracles import AllFast, AllSlow, OracleEpoch, OracleFree, OracleStatic
from .pte_scan import PteScan
from .sampling import Memtis, Pebs

PolicyName = Literal[
    "first_touch",
    "autonuma",
    "tpp",
    "pte_scan",
    "pebs",
    "memtis",
    "neomem",
    "oracle_static",
    "oracle_epoch",
    "oracle_free",
    "all_fast",
    "all_slow",
]
POLICIES: dict[PolicyName, type[Policy]] = {
    "first_touch": FirstTouch,
    "autonuma": AutoNuma,
    "tpp": Tpp,
    "pte_scan": PteScan,
    "pebs": Pebs,
    "memtis": Memtis,
    "neomem": NeoMem,
    "oracle_static": OracleStatic,
    "oracle_epoch": OracleEpoch,
    "oracle_free": OracleFree,
    "all_fast": AllFast,
    "all_slow": AllSlow,
}

__all__ = ["POLICIES", "Policy", "PolicyName", "System"]

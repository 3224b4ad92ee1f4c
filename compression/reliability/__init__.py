"""Reliability of quantised models: what the worst group loses, under calibration data as they may turn out."""

from __future__ import annotations

from .draws import Draw, Pool, draw
from .groups import Comparison, Items, Thresholds, compare, groups_by_id
from .report import Assessment, Subject, assess
from .trials import Trial, trials

__all__ = [
    "Assessment",
    "Comparison",
    "Draw",
    "Items",
    "Pool",
    "Subject",
    "Thresholds",
    "Trial",
    "assess",
    "compare",
    "draw",
    "groups_by_id",
    "trials",
]

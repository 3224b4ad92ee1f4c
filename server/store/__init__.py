"""The store: which experiments there are, what became of them, and every event of theirs, in SQLite or PostgreSQL."""

from .store import ACTIVE, ENDED, STATUSES, Experiment, Store, StoreError, TakenKeyError

__all__ = ["ACTIVE", "ENDED", "STATUSES", "Experiment", "Store", "StoreError", "TakenKeyError"]

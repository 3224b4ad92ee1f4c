"""A client's data: image sources (one a file), how clients share them, and the cache that all processes map."""

from .federated import FederatedData, federate
from .options import DataOptions
from .source import SOURCES

__all__ = ["SOURCES", "DataOptions", "FederatedData", "federate"]

"""A client's data: image sources (one a file), how clients share them, and the cache that all processes map."""

from .federated import FederatedData, federate
from .multimodal import MULTIMODAL, MultimodalData, MultimodalOptions, gather
from .options import DataOptions
from .source import SOURCES

__all__ = [
    "MULTIMODAL",
    "SOURCES",
    "DataOptions",
    "FederatedData",
    "MultimodalData",
    "MultimodalOptions",
    "federate",
    "gather",
]

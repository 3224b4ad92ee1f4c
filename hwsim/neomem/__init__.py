"""NeoMem (arXiv:2403.18702): what it costs when part of memory is slow, behind CXL, and who moves pages between the tiers."""

from .report import NeoMemReport
from .request import NeoMemRequest
from .simulator import estimate
from .traces import Trace, TraceStore
from .upload import TraceHeader, TraceUpload

__all__ = ["NeoMemReport", "NeoMemRequest", "Trace", "TraceHeader", "TraceStore", "TraceUpload", "estimate"]

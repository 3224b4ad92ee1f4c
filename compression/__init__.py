"""Compression of model updates: codecs by name, one file a family, one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..core.errors import SpecError
from ..core.options import Registry, validate
from .chain import ChainOptions, Codec, DownloadOptions, Encoded, UploadOptions
from .codec import Calibration, CodecOptions, Context
from .report import Report
from .wire import Base, Layout, layout

__all__ = [
    "CODECS",
    "Base",
    "Calibration",
    "Codec",
    "Context",
    "DownloadOptions",
    "Encoded",
    "Layout",
    "Report",
    "UploadOptions",
    "layout",
    "parse",
    "parse_download",
]

U = TypeVar("U", bound=ChainOptions)

CODECS: Registry[CodecOptions] = Registry(
    "upload",
    {
        "fp16": "compression.casts:CastOptions",
        "bf16": "compression.casts:CastOptions",
        "int8": "compression.rows:RowOptions",
        "int4": "compression.rows:RowOptions",
        "topk": "compression.sparse:TopKOptions",
        "randomk": "compression.sparse:RandomKOptions",
        "qsgd": "compression.qsgd:QsgdOptions",
        "fedpaq": "compression.qsgd:FedPaqOptions",
        "signsgd": "compression.signs:SignOptions",
        "powersgd": "compression.powersgd:PowerSgdOptions",
        "svd": "compression.asvd:SvdOptions",
        "asvd": "compression.asvd:AsvdOptions",
        "svd-llm": "compression.asvd:SvdLlmOptions",
        "rptq": "compression.rptq.codec:RptqOptions",
    },
    key="codec",
)


def parse(section: Mapping[str, Any], name: str = "upload") -> UploadOptions:
    """Validate a section of a spec that says how updates are compressed.

    ``codec`` is a name, or a list of names and of tables with a name in ``codec`` and the fields of that codec beside it.
    Fields in the section itself that are not the section's own belong to the first codec.

    Raises
    ------
    SpecError
        If a codec or a field is unknown, or a value or the combination is not allowed.
    """
    return _parse(section, name, UploadOptions)


def parse_download(section: Mapping[str, Any]) -> DownloadOptions:
    """Validate a section of a spec that says how broadcasts are compressed, as `parse` does."""
    return _parse(section, "download", DownloadOptions)


def _parse(section: Mapping[str, Any], name: str, cls: type[U]) -> U:
    fields = dict(section)
    own = {key: fields.pop(key) for key in cls.model_fields if key != "codec" and key in fields}
    named = fields.pop("codec", [])
    chain = [
        dict(one) if isinstance(one, Mapping) else {"codec": one}
        for one in (named if isinstance(named, (list, tuple)) else [named])
    ]
    if not chain:
        raise SpecError(f"{name}.codec: missing; choose one of {', '.join(CODECS.names())}, or a list of them")
    codecs = [CODECS.parse(one, name) for one in ({**fields, **chain[0]}, *chain[1:])]
    return validate(cls, {**own, "codec": codecs}, name)

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("simulator", "version", "choices", "concurrency", "deadline_s", "limits")
    class ChoicesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Choices
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Choices, _Mapping]] = ...) -> None: ...
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SIMULATOR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    simulator: str
    version: str
    choices: _containers.MessageMap[str, Choices]
    concurrency: int
    deadline_s: float
    limits: _containers.ScalarMap[str, int]
    def __init__(self, simulator: _Optional[str] = ..., version: _Optional[str] = ..., choices: _Optional[_Mapping[str, Choices]] = ..., concurrency: _Optional[int] = ..., deadline_s: _Optional[float] = ..., limits: _Optional[_Mapping[str, int]] = ...) -> None: ...

class TraceChunk(_message.Message):
    __slots__ = ("header", "data", "trailer")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    header: TraceHeader
    data: TraceData
    trailer: TraceTrailer
    def __init__(self, header: _Optional[_Union[TraceHeader, _Mapping]] = ..., data: _Optional[_Union[TraceData, _Mapping]] = ..., trailer: _Optional[_Union[TraceTrailer, _Mapping]] = ...) -> None: ...

class TraceHeader(_message.Message):
    __slots__ = ("format", "content", "page_bytes", "total_accesses", "total_pages", "write_bitmap", "access_bytes", "llc")
    class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FORMAT_UNSPECIFIED: _ClassVar[TraceHeader.Format]
        FORMAT_INT32: _ClassVar[TraceHeader.Format]
        FORMAT_INT64: _ClassVar[TraceHeader.Format]
    FORMAT_UNSPECIFIED: TraceHeader.Format
    FORMAT_INT32: TraceHeader.Format
    FORMAT_INT64: TraceHeader.Format
    class Content(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONTENT_UNSPECIFIED: _ClassVar[TraceHeader.Content]
        CONTENT_PAGES: _ClassVar[TraceHeader.Content]
        CONTENT_ADDRESSES: _ClassVar[TraceHeader.Content]
    CONTENT_UNSPECIFIED: TraceHeader.Content
    CONTENT_PAGES: TraceHeader.Content
    CONTENT_ADDRESSES: TraceHeader.Content
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ACCESSES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PAGES_FIELD_NUMBER: _ClassVar[int]
    WRITE_BITMAP_FIELD_NUMBER: _ClassVar[int]
    ACCESS_BYTES_FIELD_NUMBER: _ClassVar[int]
    LLC_FIELD_NUMBER: _ClassVar[int]
    format: TraceHeader.Format
    content: TraceHeader.Content
    page_bytes: int
    total_accesses: int
    total_pages: int
    write_bitmap: bool
    access_bytes: int
    llc: LlcOptions
    def __init__(self, format: _Optional[_Union[TraceHeader.Format, str]] = ..., content: _Optional[_Union[TraceHeader.Content, str]] = ..., page_bytes: _Optional[int] = ..., total_accesses: _Optional[int] = ..., total_pages: _Optional[int] = ..., write_bitmap: _Optional[bool] = ..., access_bytes: _Optional[int] = ..., llc: _Optional[_Union[LlcOptions, _Mapping]] = ...) -> None: ...

class LlcOptions(_message.Message):
    __slots__ = ("bytes", "ways")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    WAYS_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    ways: int
    def __init__(self, bytes: _Optional[int] = ..., ways: _Optional[int] = ...) -> None: ...

class TraceData(_message.Message):
    __slots__ = ("seq", "data", "crc32c")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    seq: int
    data: bytes
    crc32c: int
    def __init__(self, seq: _Optional[int] = ..., data: _Optional[bytes] = ..., crc32c: _Optional[int] = ...) -> None: ...

class TraceTrailer(_message.Message):
    __slots__ = ("sha256", "count")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    count: int
    def __init__(self, sha256: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class TraceReceipt(_message.Message):
    __slots__ = ("trace_id", "accesses")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_FIELD_NUMBER: _ClassVar[int]
    trace_id: str
    accesses: int
    def __init__(self, trace_id: _Optional[str] = ..., accesses: _Optional[int] = ...) -> None: ...

class Choices(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("simulator", "version", "choices", "concurrency", "deadline_s")
    class ChoicesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Choices
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Choices, _Mapping]] = ...) -> None: ...
    SIMULATOR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    simulator: str
    version: str
    choices: _containers.MessageMap[str, Choices]
    concurrency: int
    deadline_s: float
    def __init__(self, simulator: _Optional[str] = ..., version: _Optional[str] = ..., choices: _Optional[_Mapping[str, Choices]] = ..., concurrency: _Optional[int] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class Choices(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

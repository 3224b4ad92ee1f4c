"""Requests and reports as protocol buffers: same fields, same names, converted both ways by one rule.

A field that is absent from a message has the default of its class. A choice among words is an enum whose value `NAME_WORD`
stands for `word`; its value 0 stands for nothing and is refused where it is sent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError

from ..core.options import Options, sentences
from .simulator import HwsimError

M = TypeVar("M", bound=Message)
B = TypeVar("B", bound=BaseModel)


def fingerprint(request: Options) -> str:
    """Return a hash of a request: equal for equal requests, whoever makes them."""
    text = json.dumps(request.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{type(request).__name__}{text}".encode()).hexdigest()


def encode(model: BaseModel, message: M) -> M:
    """Write a request or report into an empty message."""
    for name, field in message.DESCRIPTOR.fields_by_name.items():
        value = getattr(model, name)
        if value is None:
            continue
        if field.is_repeated:
            if _is_map(field):
                getattr(message, name).update(value)
            elif field.message_type:
                for item in value:
                    encode(item, getattr(message, name).add())
            else:
                getattr(message, name).extend(_scalar(item, field) for item in value)
        elif field.message_type:
            getattr(message, name).SetInParent()
            encode(value, getattr(message, name))
        else:
            setattr(message, name, _scalar(value, field))
    return message


def decode(message: Message, cls: type[B]) -> B:
    """Read a request or report out of a message.

    Raises
    ------
    HwsimError
        INVALID_ARGUMENT, with the field named, if the message is not what the class demands.
    """
    fields = _fields(message)
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        sentence = sentences(error, cls)[0]
        raise HwsimError(sentence, "INVALID_ARGUMENT", field or re.split(":| = ", sentence)[0]) from None


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _scalar(value: Any, field: FieldDescriptor) -> Any:
    return value if field.enum_type is None else field.enum_type.values_by_name[enum_value(field.enum_type.name, value)].number


def enum_value(enum: str, word: str) -> str:
    """Return the name of the enum value that stands for a word: `Precision`, `fp32` give `PRECISION_FP32`."""
    return f"{enum_prefix(enum)}{word.upper()}"


def enum_prefix(enum: str) -> str:
    """Return what all values of an enum start with."""
    snake = "".join(f"_{c}" if c.isupper() and place else c for place, c in enumerate(enum))
    return f"{snake.upper()}_"


def _word(number: int, enum: EnumDescriptor, path: str) -> str:
    prefix = enum_prefix(enum.name)
    words = {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}
    if number == 0 or number not in words:
        allowed = ", ".join(word for value, word in words.items() if value)
        raise HwsimError(f"{path} = {number}: not a choice; choose one of {allowed}", "INVALID_ARGUMENT", path)
    return words[number]


def _fields(message: Message, path: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value, where = getattr(message, field.name), f"{path}{field.name}"
        if field.is_repeated:
            fields[field.name] = dict(value) if _is_map(field) else _items(value, field, where)
        elif not field.has_presence or message.HasField(field.name):
            fields[field.name] = _item(value, field, where)
    return fields


def _items(values: Iterable[Any], field: FieldDescriptor, where: str) -> list[Any]:
    return [_item(value, field, f"{where}.{place}") for place, value in enumerate(values)]


def _item(value: Any, field: FieldDescriptor, where: str) -> Any:
    if field.message_type is not None:
        return _fields(value, f"{where}.")
    return value if field.enum_type is None else _word(value, field.enum_type, where)

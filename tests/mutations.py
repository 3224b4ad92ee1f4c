"""Messages with fields at extremes, of which a service must make an answer or a status."""

from __future__ import annotations

import math

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

EXTREMES = {
    FieldDescriptor.CPPTYPE_INT64: st.sampled_from([0, -1, 1, 2**31, 65_536, 2**53, 2**62, 2**63 - 1, -(2**63)]),
    FieldDescriptor.CPPTYPE_DOUBLE: st.sampled_from(
        [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, 5e-324, 1e-300, 1e-6, 1e20, 1e308, -1e308]
    ),
    FieldDescriptor.CPPTYPE_ENUM: st.sampled_from([0, 1, 99, -1, 2**31 - 1]),
    FieldDescriptor.CPPTYPE_STRING: st.sampled_from(["", "\0", "xeon-8480", "lenet", "x" * 9000, "\u00e9\u4e16\n"]),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def places(message):
    """Yield every message in a message, with each of its fields."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type and field.is_repeated:
            for item in getattr(message, field.name):
                yield from places(item)
        elif field.message_type and message.HasField(field.name):
            yield from places(getattr(message, field.name))


def mutate(message, data) -> None:
    """Set one field to an extreme, or drop or add a message."""
    where, field = data.draw(st.sampled_from(list(places(message))), label="place")
    if field.message_type:
        if data.draw(st.booleans(), label="drop"):
            where.ClearField(field.name)
        elif field.is_repeated:
            getattr(where, field.name).add()
        else:
            getattr(where, field.name).SetInParent()
        return
    value = data.draw(EXTREMES[field.cpp_type], label=field.full_name)
    getattr(where, field.name).append(value) if field.is_repeated else setattr(where, field.name, value)

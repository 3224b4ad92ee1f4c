"""The protocol: the committed files are what the classes say, and numbers on the wire are for ever."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto

from fedcosim.hwsim.simulators import SIMULATORS
from fedcosim.hwsim.wire import enum_prefix

ROOT = Path(__file__).parents[2]
GENERATED = [("hwsim/proto/fedcosim/hwsim/v1", "*.proto"), ("hwsim/v1", "*_pb2*")]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_proto", ROOT / "hwsim" / "generate_proto.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_proto"] = module
    spec.loader.exec_module(module)
    return module


def files(root: Path) -> dict[str, bytes]:
    return {f"{folder}/{p.name}": p.read_bytes() for folder, names in GENERATED for p in (root / folder).glob(names)}


def test_the_committed_files_are_what_the_classes_say(generator, tmp_path):
    generator.generate(tmp_path)
    assert files(tmp_path) == files(ROOT)


def messages() -> list[DescriptorProto]:
    found = []
    for name in ("common", *SIMULATORS):
        module = import_module(f"fedcosim.hwsim.v1.{name}_pb2")
        found += FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb).message_type
    return found


def enums() -> list[EnumDescriptorProto]:
    return [enum for message in messages() for enum in message.enum_type]


def test_every_word_survives_its_enum():
    """Words become upper-case names and lower-case words again: lower case, digits and underscores alone do so."""
    assert enums()
    for enum in enums():
        first, *rest = enum.value
        assert (first.name, first.number) == (f"{enum_prefix(enum.name)}UNSPECIFIED", 0)
        for value in rest:
            word = value.name.removeprefix(enum_prefix(enum.name))
            assert word != value.name
            assert word.replace("_", "").isalnum()
            assert word.isascii()
            assert word == word.upper()


def literals(cls) -> list[str]:
    """Every word of every choice in a class and the classes in it, from the JSON schema that pydantic makes."""
    schema = cls.model_json_schema()
    nodes, words = [schema], []
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            words += [word for word in (*node.get("enum", ()), node.get("const")) if isinstance(word, str)]
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
    return words


def test_every_choice_in_requests_and_reports_is_made_of_such_words():
    for name in SIMULATORS:
        module, cls = SIMULATORS[name].split(":")
        simulator = getattr(import_module(f"fedcosim.hwsim.{module}"), cls)
        words = [word for kind in (simulator.Request, simulator.Report) for word in literals(kind)]
        assert words
        for word in words:
            assert set(word) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")


def test_numbers_are_unique_and_not_reserved():
    for item in [*messages(), *enums()]:
        numbers = [x.number for x in (item.field if isinstance(item, DescriptorProto) else item.value)]
        assert len(numbers) == len(set(numbers))
        assert not {span.start for span in item.reserved_range} & set(numbers)


def committed(*names: str, reserved: tuple[int, ...] = ()) -> DescriptorProto:
    message = DescriptorProto(name="M")
    for number, name in enumerate(names, 1):
        message.field.add(name=name, number=number)
    for number in reserved:
        message.reserved_range.add(start=number, end=number + 1)
    return message


def test_a_field_keeps_its_number_when_others_come_and_go(generator):
    numbers = generator._Numbers(committed("a", "b", "c"))
    assert [numbers.of(name) for name in ("new", "c", "a")] == [4, 3, 1]
    assert numbers.gone(["new", "c", "a"]) == [2]


def test_a_number_that_was_ever_used_is_not_given_again(generator):
    """Not even the highest one, whose field went in an earlier version."""
    numbers = generator._Numbers(committed("a", "b", reserved=(3, 9)))
    assert numbers.of("new") == 10
    assert numbers.gone(["a", "new"]) == [2, 3, 9]


def test_a_word_that_went_is_reserved_in_its_enum(generator):
    before = EnumDescriptorProto(name="Kind")
    for number, name in enumerate(("KIND_UNSPECIFIED", "KIND_A", "KIND_B")):
        before.value.add(name=name, number=number)
    before.reserved_range.add(start=7, end=7)  # an enum's ranges include their end
    numbers = generator._Numbers(before)
    assert numbers.of("KIND_C") == 8
    assert numbers.gone(["KIND_UNSPECIFIED", "KIND_A", "KIND_C"]) == [2, 7]

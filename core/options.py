"""Options: typed, validated settings that stand beside the component they configure, and registries of them by name.

A component that a spec can name (a strategy, a model, a data source, a codec) has one options class, whose fields are
exactly what the spec accepts and whose `build` makes the component. A registry maps names to those classes and imports a
module only when its name is used.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import SpecError


class Options(BaseModel):
    """Base of all settings: immutable, unknown fields refused, NaN and infinity refused, docstrings are the help texts."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )


O = TypeVar("O", bound=Options)  # noqa: E741 - the field's usual name for a type variable of options


class Registry(Generic[O]):
    """Named options classes of one kind, imported on first use.

    Parameters
    ----------
    section : str
        Where the name appears in a spec, for messages: ``"strategy"`` gives ``strategy.name = 'x': ...``.
    entries : mapping of str to str
        Name to ``"module:Class"``, the module relative to the `fedcosim` package.
    key : str
        The field that holds the name.
    """

    def __init__(self, section: str, entries: Mapping[str, str], key: str = "name") -> None:
        self.section, self.key = section, key
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """Return all registered names, in registration order."""
        return list(self._entries)

    def options(self, name: str, section: str | None = None) -> type[O]:
        """Return the options class registered as `name`, which a `section` of a spec asks for.

        Raises
        ------
        SpecError
            If there is no such name; the message lists the ones there are.
        """
        if not isinstance(name, str) or name not in self._entries:
            raise SpecError(f"{section or self.section}.{self.key} = {name!r}: {choose(str(name), self._entries)}")
        module, cls = self._entries[name].split(":")
        return getattr(import_module(f"..{module}", __package__), cls)

    def parse(self, section: Mapping[str, Any], name: str | None = None) -> O:
        """Validate one section of a spec with the options class that its name selects.

        The name stays among the fields: every options class declares it (``name: Literal["fedavg"] = "fedavg"``), so what
        `model_dump` writes, `parse` reads.

        Parameters
        ----------
        section : mapping
            The fields.
        name : str, optional
            What the section is called, for messages, where it is not the usual one.

        Raises
        ------
        SpecError
            If the name is missing or unknown, or a field is not as its options class demands.
        """
        fields, name = dict(section), name or self.section
        if self.key not in fields:
            raise SpecError(f"{name}.{self.key}: missing; choose one of {', '.join(self._entries)}")
        return validate(self.options(fields[self.key], name), fields, name)


def validate(cls: type[O], fields: Mapping[str, Any], section: str = "") -> O:
    """Build options from plain fields; every pydantic complaint becomes a sentence of one `SpecError`."""
    try:
        return cls.model_validate(dict(fields))
    except ValidationError as error:
        raise SpecError(sentences(error, cls, section)) from None


def sentences(error: ValidationError, cls: type[BaseModel], section: str = "") -> list[str]:
    """Turn a pydantic error into sentences that name field, value, and what is allowed."""
    return [_sentence(detail, cls, section) for detail in error.errors(include_url=False)]


def _sentence(detail: Mapping[str, Any], cls: type[BaseModel], section: str) -> str:
    field = ".".join(str(part) for part in (section, *detail["loc"]) if part != "")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{field}: missing; it must be given"
    if detail["type"] == "extra_forbidden":
        known = cls.model_fields if len(detail["loc"]) == 1 else _nested(cls, detail["loc"][:-1])
        return f"{field}: unknown field; {choose(str(detail['loc'][-1]), known)}"
    if message.startswith(f"{field}."):  # a validator of several fields names the one it means
        return message
    if not detail["loc"]:
        return f"{section}: {message}".lstrip(": ")
    return f"{field} = {detail['input']!r}: {message[:1].lower()}{message[1:]}"


def _nested(cls: type[BaseModel], path: Iterable[str | int]) -> Iterable[str]:
    """Return the field names of the model found by following `path` from `cls`; empty where that is not a model."""
    for part in path:
        field = cls.model_fields.get(str(part))
        candidates = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if field] if field else []
        models = [a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel)]
        if not models:
            return ()
        cls = models[0]
    return cls.model_fields


def choose(name: str, known: Iterable[str]) -> str:
    """Say what could have been meant instead of `name`."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}choose one of {', '.join(known)}" if known else "no fields are allowed here"

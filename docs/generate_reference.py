"""Write docs/reference/spec.md from the classes that validate a spec, so that it cannot say anything else than they do.

python docs/generate_reference.py            write the file
python docs/generate_reference.py --check    exit 1 if the file is out of date
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from inspect import getdoc
from pathlib import Path
from typing import Any

from fedcosim.clients.data import MULTIMODAL
from fedcosim.clients.models import MODELS
from fedcosim.clients.tasks.classification import TrainOptions
from fedcosim.clients.tasks.multimodal import MultimodalTrainOptions
from fedcosim.compression import CODECS
from fedcosim.core.options import Options, Registry
from fedcosim.server.spec import Experiment
from fedcosim.strategies import STRATEGIES

PAGE = Path(__file__).parent / "reference" / "spec.md"
CHOSEN_BY_NAME: dict[str, Registry[Any]] = {"model": MODELS, "strategy": STRATEGIES}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
HEAD = """# The experiment file, field by field

<!-- Written by docs/generate_reference.py from the classes that validate a spec. Run `make docs` after changing one. -->

An experiment is a TOML file. A field that is not listed here is refused, and so is a value outside its range; every
message names the field, the value and what is allowed. `--set section.field=value` overrides a field for one run, and
`--set section.field=` removes it. Sections in which every field has a default may be left out.
"""


def page() -> str:
    """Return the whole reference as Markdown."""
    schema = Experiment.model_json_schema()
    top = {name: field for name, field in schema["properties"].items() if not _sections(field)}
    parts = [HEAD, "## Top level\n", _table(top, schema)]
    for name, field in schema["properties"].items():
        if name in CHOSEN_BY_NAME:
            parts += _registered(name, CHOSEN_BY_NAME[name])
        elif sections := _sections(field):
            section = schema["$defs"][sections[0]]
            parts += [f"## `[{name}]`\n", *_section(section, schema, name in schema["required"])]
            parts += _subsections(name, section["properties"], schema, "###")
        if name == "data":
            parts += _multimodal()
        if name == "train":
            own = MultimodalTrainOptions.model_json_schema()
            more = {key: field for key, field in own["properties"].items() if key not in TrainOptions.model_fields}
            parts += ['With multimodal data (`data.source = "emoji"`), `[train]` accepts these, too:\n', _table(more, own)]
        if name == "upload":
            parts += _codecs()
    return "\n".join(parts)


def _registered(section: str, registry: Registry[Any]) -> Iterator[str]:
    """Document a section whose other fields depend on its `name`."""
    yield f"## `[{section}]`\n"
    yield f"Must be given. `name` chooses one of the following; the other fields are those of the chosen {section}.\n"
    for name in registry.names():
        options: type[Options] = registry.options(name)
        schema = options.model_json_schema()
        fields = {key: field for key, field in schema["properties"].items() if key != "name"}
        yield f'### `name = "{name}"`\n'
        yield f"{(getdoc(options) or '').splitlines()[0]}\n"
        yield "No other fields.\n" if all(_sections(field) for field in fields.values()) else _table(fields, schema)
        yield from _subsections(section, fields, schema, "####")


def _subsections(section: str, fields: Mapping[str, Any], schema: Mapping[str, Any], heading: str) -> Iterator[str]:
    """Document the fields that are sections themselves."""
    for key, field in fields.items():
        if sections := _sections(field):
            yield f"{heading} `[{section}.{key}]`\n"
            yield f"{field.get('description', '')}\n"
            yield from _section(schema["$defs"][sections[0]], schema, required=False)


def _multimodal() -> Iterator[str]:
    """Document the sources of data of several modalities, which have fields of their own."""
    for name in MULTIMODAL.names():
        options = MULTIMODAL.options(name)
        schema = options.model_json_schema()
        fields = {key: field for key, field in schema["properties"].items() if key != MULTIMODAL.key}
        yield f'### `source = "{name}"`\n'
        yield f"{(getdoc(options) or '').splitlines()[0]} These are all its fields.\n"
        yield _table(fields, schema)
        yield from _subsections("data", fields, schema, "####")


def _codecs() -> Iterator[str]:
    """Document the codecs that `[upload]` and `[download]` choose from."""
    yield "`codec` is a name, or a list of names and of tables `{ codec = NAME, FIELD = VALUE }`. Fields of the first codec can"
    yield "also stand in the section itself.\n"
    for name in CODECS.names():
        options = CODECS.options(name)
        schema = options.model_json_schema()
        fields = {key: field for key, field in schema["properties"].items() if key != CODECS.key}
        yield f'### `codec = "{name}"`\n'
        yield f"{(getdoc(options) or '').splitlines()[0]}\n"
        yield _table(fields, schema) if fields else "No other fields.\n"


def _section(section: Mapping[str, Any], schema: Mapping[str, Any], required: bool) -> Iterator[str]:
    summary = section.get("description", "").split("\n\n")[0].replace("\n", " ")
    yield f"{summary}{' Must be given.' if required else ''}\n"
    yield _table(section["properties"], schema, section.get("required", ()))


def _table(fields: Mapping[str, Any], schema: Mapping[str, Any], required: Iterable[str] = ()) -> str:
    rows = ["| field | type and range | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        if _sections(field):
            continue
        default = "must be given" if name in required else _default(field)
        meaning = " ".join(field.get("description", "").split())
        rows.append(f"| `{name}` | {_type(field)} | {default} | {_cell(meaning)} |")
    return "\n".join(rows) + "\n"


def _sections(field: Mapping[str, Any]) -> list[str]:
    """Return the names of the option classes a field may hold."""
    candidates = (field, *field.get("anyOf", ()), *field.get("allOf", ()))
    return [candidate["$ref"].removeprefix("#/$defs/") for candidate in candidates if "$ref" in candidate]


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"] if option.get("type") != "null")
    if "enum" in field or "const" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        items = field.get("items", {})
        kinds = [_type(one) for one in field.get("prefixItems", [] if "$ref" in items else [items])]
        return f"list of {', '.join(dict.fromkeys(kinds)) or 'tables'}"
    bounds = [f"{sign} {_number(field[key])}" for key, sign in BOUNDS.items() if key in field]
    pattern = [f"matching `{field['pattern']}`"] if "pattern" in field else []
    return _cell(", ".join([field["type"], *bounds, *pattern]))


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    return "none" if default is None else f"`{json.dumps(default)}`"


def _number(value: float) -> str:
    return (
        f"2^{int(value).bit_length() - 1}" if value >= 2**32 and value == 1 << (int(value).bit_length() - 1) else f"{value:g}"
    )


def _cell(text: str) -> str:
    return re.sub(r"<(?=[a-z])", "&lt;", text).replace("|", "\\|")  # `<source>` would be an HTML tag


def main() -> int:
    """Write the page, or say whether it is up to date."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE}: out of date; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

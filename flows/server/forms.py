"""Forms of deployments: machine settings in a group, and names of what is there to choose from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.parameters import MACHINE
from warehouse.catalog.query import query
from warehouse.errors import FoleyError
from warehouse.files import Json

_QUERIES = {
    "dataset": "select name from datasets union select version from datasets order by name",
    "checkpoint": "select id from checkpoints order by created_at desc",
    "sources": "select name from sources order by name",
}
_SAME_AS = {"parent": "checkpoint"}


def choices(home: Path) -> dict[str, list[str]]:
    """Names by field; none where nothing was published yet."""
    found: dict[str, list[str]] = {}
    for field, sql in _QUERIES.items():
        try:
            found[field] = [name for row in query(home, sql).to_pylist() for name in row.values()]
        except FoleyError:  # no catalog, or one of an earlier version
            found[field] = []
    return found | {field: found[other] for field, other in _SAME_AS.items()}


def form(schema: Json, names: Mapping[str, Sequence[str]]) -> Json:
    """The schema of a deployment's parameters as a person is to fill it in.

    Fields offer the names, and text beside; those of the machine are a group, the last one. Without
    the group they are taken as well, as from schedules and other programs.
    """
    definitions = dict(schema.get("definitions", {}))
    for model, said in definitions.items():
        fields = {
            name: _offering(field, names.get(name, ()))
            for name, field in said.get("properties", {}).items()
        }
        machine = {name: fields.pop(name) for name in MACHINE if name in fields}
        definitions[model] = {**said, "properties": fields}
        if machine:
            about = {"title": "Machine", "description": "What it runs on."}
            group = {"type": "object", "properties": machine, "additionalProperties": False}
            alone = {f"^{name}$": field for name, field in machine.items()}
            fields["machine"] = about | group | {"default": {}}
            definitions[model]["patternProperties"] = alone
    return {**schema, "definitions": definitions}


def _offering(field: Json, names: Sequence[str]) -> Mapping[str, object]:
    """An optional text, or a list, with names to choose from before it; another field as it is."""
    if not names:
        return field
    offered = {"title": "one that is there", "type": "string", "enum": list(names)}
    if field.get("type") == "array":
        about = {key: value for key, value in field.items() if key not in ("type", "items")}
        some = {"title": "some that are there", "type": "array", "items": offered}
        others = {"title": "others", "type": "array", "items": field["items"]}
        return {**about, "anyOf": [some, others]}
    shapes = field.get("anyOf", ())
    text = [shape for shape in shapes if shape.get("type") == "string"]
    if len(text) != 1:
        return field
    rest = [{**shape, "title": "another"} if shape is text[0] else shape for shape in shapes]
    return {**field, "anyOf": [offered, *rest]}

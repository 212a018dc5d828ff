"""Forms: what comes first in them, and what they offer to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError, validate
from prefect.utilities.callables import parameter_schema

from flows.parameters import CurateParameters, EvaluateParameters, TrainParameters
from flows.server.forms import choices, form
from pipeline.curation.registry import register
from warehouse import Warehouse


def train(parameters: TrainParameters) -> None:
    """A flow, as far as its form goes."""
    del parameters


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return parameter_schema(train).model_dump_for_openapi()


def test_a_run_is_about_its_clips_first_and_its_machine_last() -> None:
    fields = list(CurateParameters.model_json_schema()["properties"])
    assert fields[:4] == ["folder", "name", "sources", "policy"]
    assert fields[-3:] == ["gpus", "gpu_stages", "home"]
    assert next(iter(EvaluateParameters.model_json_schema()["properties"])) == "checkpoint"


def test_what_is_there_is_offered_and_any_other_name_is_taken(schema: dict[str, Any]) -> None:
    names = {"dataset": ["main", "main-0001-ab"], "parent": ["b0"]}
    filled = form(schema, names)
    before, after = (s["definitions"]["TrainParameters"]["properties"] for s in (schema, filled))
    assert after["dataset"]["anyOf"][0]["enum"] == names["dataset"]
    assert after["parent"]["anyOf"][0]["enum"] == ["b0"]
    assert after["steps"] == before["steps"]
    for value in ("main", "of tomorrow", None):
        validate({"parameters": {"dataset": value}}, filled)
    with pytest.raises(ValidationError):
        validate({"parameters": {"dataset": 3}}, filled)


def test_the_machine_is_a_group_and_its_fields_are_taken_without_it_too(
    schema: dict[str, Any],
) -> None:
    filled = form(schema, {})
    fields = filled["definitions"]["TrainParameters"]["properties"]
    assert list(fields)[-1] == "machine"
    assert "processes" not in fields
    for values in ({"processes": 2}, {"machine": {"processes": 2}}):
        validate({"parameters": values}, filled)
        assert TrainParameters.model_validate(values).processes == 2
    for wrong in ({"processes": 0}, {"machine": {"processes": 0}}, {"no_such": 1}):
        with pytest.raises(ValidationError):
            validate({"parameters": wrong}, filled)
        with pytest.raises(ValueError, match=r"processes|no_such"):
            TrainParameters.model_validate(wrong)


def curate(parameters: CurateParameters) -> None:
    """Another."""
    del parameters


def test_of_a_list_some_that_are_there_are_offered_and_others_are_taken() -> None:
    filled = form(parameter_schema(curate).model_dump_for_openapi(), {"sources": ["a", "b"]})
    field = filled["definitions"]["CurateParameters"]["properties"]["sources"]
    assert field["anyOf"][0]["items"]["enum"] == ["a", "b"]
    assert field["default"] == []
    for values in ([], ["a"], ["b", "a"], ["of tomorrow"], ["a,b"]):
        validate({"parameters": {"sources": values}}, filled)
    with pytest.raises(ValidationError):
        validate({"parameters": {"sources": "a"}}, filled)


def test_names_are_those_of_the_catalog(tmp_path: Path, schema: dict[str, Any]) -> None:
    nothing = choices(tmp_path)
    assert not any(nothing.values())
    fields = form(schema, nothing)["definitions"]["TrainParameters"]["properties"]
    assert fields["dataset"] == schema["definitions"]["TrainParameters"]["properties"]["dataset"]
    wh = Warehouse(tmp_path)
    for id in ("b0", "b1"):
        wh.write_record("checkpoints", id, {"id": id})
    (tmp_path / "videos").mkdir()
    register(wh, tmp_path / "videos", "field")
    wh.publish()
    assert choices(tmp_path)["sources"] == ["field"]
    assert sorted(choices(tmp_path)["checkpoint"]) == ["b0", "b1"]
    assert choices(tmp_path)["parent"] == choices(tmp_path)["checkpoint"]

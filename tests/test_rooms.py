"""The rooms: imports run one way and never in a circle, and nothing heavy is loaded before use."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "foley": {"foley", "flows", "pipeline", "model", "warehouse"},
    "flows": {"flows", "pipeline", "model", "warehouse"},
    "pipeline": {"pipeline", "model", "warehouse"},
    "model": {"model", "warehouse"},
    "warehouse": {"warehouse"},
    "integrations": {"integrations", "foley", "pipeline"},
    "recipes": {"recipes", "foley", "flows", "pipeline", "model", "warehouse"},
}
#: Inside a room: files and sub-rooms from the ground up. Each imports from lines above its own, and
#: from itself; what is not named stands on top.
GROUND_UP = {
    "flows": ["parameters", "display", "running", "server"],
    "pipeline": [
        "media paths procedural report download",
        "world stages tables",
        "scoring features",
        "curation",
        "training",
        "generation",
        "evaluation",
    ],
    "model": [
        "types",
        "presets metrics",
        "weights",
        "backbone bridge video_encoder",
        "bridge_file sampling networks low_memory",
        "foley",
        "training hub",
    ],
    "warehouse": [
        "errors",
        "files",
        "schema",
        "commits",
        "home",
        "rows runs",
        "datasets",
        "catalog cleanup exchange ingest",
        "maintenance",
        "store",
    ],
}
HEAVY = {
    "torch",
    "prefect",
    "transformers",
    "av",
    "stable_audio_tools",
    "imagebind",
    "scipy",
    "mujoco",
}
MOST_ENTRIES = 14


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found
    return found


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for room in MAY_IMPORT for file in files(room)}


def imports(file: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (full if full in MODULES else node.module or "" for full in inside)


def rooms(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    forbidden = (set(MAY_IMPORT) | {"tests"}) - MAY_IMPORT[room]
    wrong = {name_of(f): sorted(rooms(f) & forbidden) for f in files(room) if rooms(f) & forbidden}
    assert wrong == {}


def test_of_the_warehouse_models_know_the_errors_alone() -> None:
    known = {name for file in files("model") for name in imports(file) if "warehouse" in name}
    assert known == {"warehouse.errors"}


@pytest.mark.parametrize("room", GROUND_UP)
def test_sub_rooms_stand_on_those_below(room: str) -> None:
    floors = {name: floor for floor, names in enumerate(GROUND_UP[room]) for name in names.split()}
    top = len(GROUND_UP[room])

    def floor(module: str) -> tuple[str, int]:
        part = module.split(".")[1] if "." in module else ""
        return part, floors.get(part, top)

    wrong: list[str] = []
    for file in files(room):
        part, own = floor(name_of(file))
        for target in imports(file):
            if target.split(".")[0] == room and part:
                other, its = floor(target)
                if other and other != part and (its > own or (its == own and own < top)):
                    wrong.append(f"{name_of(file)} imports {target}")
    assert wrong == []


def test_there_is_no_circle_of_files() -> None:
    graph = {name: set(imports(file)) & set(MODULES) - {name} for name, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    folders = {file.parent for file in MODULES.values()}
    entries = {
        str(folder.relative_to(ROOT)): len([e for e in folder.iterdir() if e.name[:2] != "__"])
        for folder in folders
    }
    assert {name: count for name, count in entries.items() if count > MOST_ENTRIES} == {}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_each_folder_says_what_it_is_for(room: str) -> None:
    for file in files(room):
        if file.name == "__init__.py":
            assert len(ast.get_docstring(ast.parse(file.read_text())) or "") > 30, file


@pytest.mark.parametrize("room", sorted(set(MAY_IMPORT) - {"flows"}))
def test_only_flows_import_prefect(room: str) -> None:
    assert [str(f) for f in files(room) if "prefect" in rooms(f)] == []


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the code."""
    report = f"""{code}
import json, sys
print(json.dumps(sorted({{module.split('.')[0] for module in sys.modules}})))
"""
    done = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", ["import warehouse", "import foley"])
def test_importing_the_api_or_the_warehouse_loads_nothing_heavy(code: str) -> None:
    loaded = loaded_by(code)
    assert code.split()[1] in loaded
    assert loaded & (HEAVY | {"pydantic", "duckdb", "pyarrow", "numpy"}) == set()


def test_foley_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("from foley.cli.main import cli\ncli(['--help'], standalone_mode=False)")
    assert "click" in loaded
    assert loaded & (HEAVY | {"pydantic", "duckdb", "pyarrow", "numpy"}) == set()


def test_a_query_loads_neither_torch_nor_prefect() -> None:
    loaded = loaded_by(
        "from warehouse import Warehouse, query, status\n"
        "import foley.cli.output, warehouse.catalog.rendering"
    )
    assert loaded & {"torch", "prefect", "transformers", "av"} == set()

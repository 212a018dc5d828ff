"""The rooms: imports run one way, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "flows": {"flows", "pipeline", "model", "warehouse"},
    "pipeline": {"pipeline", "model", "warehouse"},
    "model": {"model"},
    "warehouse": {"warehouse"},
}
HEAVY = {
    "torch",
    "prefect",
    "transformers",
    "av",
    "stable_audio_tools",
    "imagebind",
    "scipy",
    "pydantic",
}


def imports(file: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    forbidden = (set(MAY_IMPORT) | {"tests", "recipes"}) - MAY_IMPORT[room]
    wrong = {
        str(f.relative_to(ROOT)): sorted(imports(f) & forbidden)
        for f in files(room)
        if imports(f) & forbidden
    }
    assert wrong == {}


@pytest.mark.parametrize("room", sorted(set(MAY_IMPORT) - {"flows"}))
def test_only_flows_import_prefect(room: str) -> None:
    assert [str(f) for f in files(room) if "prefect" in imports(f)] == []


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running the code."""
    report = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_warehouse_loads_nothing_heavy() -> None:
    loaded = loaded_by("import warehouse")
    assert "warehouse" in loaded
    assert loaded & (HEAVY | {"duckdb", "pyarrow", "numpy"}) == set()


def test_foley_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("from foley.cli.main import cli\ncli(['--help'], standalone_mode=False)")
    assert "click" in loaded
    assert loaded & (HEAVY | {"duckdb", "pyarrow", "numpy"}) == set()


def test_a_query_loads_neither_torch_nor_prefect() -> None:
    loaded = loaded_by(
        "from warehouse import Warehouse, query, status\nimport foley.cli.output, warehouse.catalog.rendering"
    )
    assert "duckdb" not in loaded or "torch" not in loaded
    assert loaded & {"torch", "prefect", "transformers", "av"} == set()

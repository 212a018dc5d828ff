"""Prints figures, one JSON line each: `uv run python -m tests.benchmarks [NAME ...]`.

A benchmark is a public generator function without parameters in a module of this package; NAME is
its name or its module's. It yields dicts with name, value, unit, better ("higher" or "lower"),
against (what it was measured beside in the same run, or null) and ratio (the value over that of
`against`, or null).
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

Benchmark = Callable[[], Iterator[dict[str, Any]]]
FIELDS = ("name", "value", "unit", "better", "against", "ratio")


def main(names: list[str]) -> int:
    """Run the benchmarks of these names, or all; 2 if a name is unknown."""
    found = benchmarks()
    chosen = {
        key: run
        for key, run in found.items()
        if not names or key in names or key.split(".")[0] in names
    }
    chosen |= {key: run for key, run in found.items() if key.split(".")[1] in names}
    unknown = [
        name for name in names if not any(name == key or name in key.split(".") for key in found)
    ]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(found)}", file=sys.stderr)
        return 2
    for run in chosen.values():
        for figure in run():
            print(json.dumps({field: figure.get(field) for field in FIELDS}), flush=True)
    return 0


def benchmarks() -> dict[str, Benchmark]:
    """Every benchmark as `module.function`."""
    found: dict[str, Benchmark] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        module = import_module(f"tests.benchmarks.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isgeneratorfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                found[f"{path.stem}.{name}"] = function
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

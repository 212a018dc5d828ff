"""Ten clips of which one is bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from warehouse import Warehouse


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    """Ten clips: eight of two letters, one of one letter, one whose processing raises."""
    warehouse = Warehouse(tmp_path / "home")
    rows: list[dict[str, Any]] = []
    for name in [*(f"c{i}" for i in range(8)), "a", "bad"]:
        file = tmp_path / f"{name}.bin"
        file.write_text(name)
        rows.append({"clip_id": name, "path": str(file), "source": "test"})
    warehouse.ingest(pa.Table.from_pylist(rows))
    return warehouse

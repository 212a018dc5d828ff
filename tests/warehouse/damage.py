"""Flips bits of a warehouse, and names what it holds and sets aside."""

from __future__ import annotations

from pathlib import Path

from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import POLICY, stages
from warehouse import FeatureSet, Warehouse
from warehouse.datasets.feature_build import FeatureRequest, build

HASHES = fingerprints(stages())


def commits(wh: Warehouse, stage: str) -> list[Path]:
    return [commit.path for commit in wh.listing(stage, HASHES.get(stage, "source")).good]


def flip(path: Path, place: float) -> bytes:
    """Change one bit, at a share of the file's length; returns what was there."""
    raw = path.read_bytes()
    at = min(int(len(raw) * place), len(raw) - 1)
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
    return raw


def aside(wh: Warehouse) -> list[Path]:
    folder = wh.home / "damaged"
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def gather(wh: Warehouse) -> FeatureSet:
    return build(wh, FeatureRequest(wh.dataset(POLICY.name), HASHES, ["tokens", "level"], None))

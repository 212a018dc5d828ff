"""What results.json says: the figures of the demo, and under what they came about."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from warehouse import Warehouse
from warehouse.catalog.rendering import render

_PACKAGES = (
    "foley-control",
    "torch",
    "transformers",
    "stable-audio-tools",
    "prefect",
    "duckdb",
    "pyarrow",
    "av",
    "numpy",
    "scipy",
    "soxr",
    "torchaudio",
    "hear21passt",
    "imagebind-packaged",
)


def funnel(wh: Warehouse, fps: Mapping[str, str], clip_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Clips passed, rejected and failed by stage, with how often each reason was given."""
    steps = {"clips": "source"} | dict(fps)
    return [_step(wh, stage, fingerprint, clip_ids) for stage, fingerprint in steps.items()]


def _step(wh: Warehouse, stage: str, fingerprint: str, clip_ids: Sequence[str]) -> dict[str, Any]:
    columns = ["clip_id", "status", "reason", "error", "message"]
    rows = wh.rows(stage, fingerprint, None, columns, clip_ids).to_pylist()
    counts = Counter(row["status"] for row in rows)
    reasons = Counter(reason(row) for row in rows if row["status"] in ("rejected", "failed"))
    return {
        "stage": stage,
        "passed": counts["passed"],
        "rejected": counts["rejected"],
        "failed": counts["failed"],
        "reasons": dict(sorted(reasons.items())),
    }


def reason(row: Mapping[str, Any]) -> str:
    """Why a clip did not pass, without the name of its file, so that like cases are counted together."""
    if row["reason"]:
        return str(row["reason"])
    message = str(row["message"] or row["error"] or "unknown")
    return message.split(": ", 1)[-1] if message.startswith("/") else message


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What the figures were computed on, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
    }


def _processor() -> str:
    """Name of the processor's model, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


_CONDITIONS = {
    "true": "its own video",
    "other": "another clip's video",
    "none": "no video, text only",
}


def figures(results: Mapping[str, Any]) -> str:
    """The sync table, v-loss and prompt swap."""
    rows = [
        {"sound made for": label, **results["sync"][name]} for name, label in _CONDITIONS.items()
    ]
    shown = {
        "sound made for": "sound made for",
        "f1_60ms": "F1 60 ms",
        "f1_100ms": "F1 100 ms",
        "mae_ms": "error ms",
    }
    table = render(
        list(shown.values()), [{shown[k]: row[k] for k in shown} for row in rows], "table"
    )
    loss, swap = results["v_loss"], results["prompt_swap"]
    losses = "{true:.4f} with its own video, {null:.4f} with none, {other:.4f} with another clip's".format(
        **loss
    )
    taken, kept = _share(swap["material_accuracy"]), _figure(swap["f1_60ms"])
    return (
        f"{table}\n\nv-loss: {losses}\nprompt swap: {taken} take the new material, F1 60 ms {kept}"
    )


def _share(value: float | None) -> str:
    return "unknown how many" if value is None else f"{value:.0%}"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"

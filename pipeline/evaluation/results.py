"""What evaluations and the demo keep and print: records, figures as text, and the machine."""

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from warehouse import Warehouse
from warehouse.catalog.rendering import render
from warehouse.files import Json

_PACKAGES = (
    "foley-control", "torch", "transformers", "stable-audio-tools", "prefect", "duckdb", "pyarrow",
    "av", "numpy", "scipy", "soxr", "torchaudio", "hear21passt", "imagebind-packaged",
)  # fmt: skip


@dataclass(frozen=True)
class EvaluationRecord:
    """What the catalog's `evaluations` keeps of one system on one set of videos."""

    id: str
    system: str
    preset: str
    set: str
    # by metric: value, `low` and `high` of its interval where it has one, clips behind it
    figures: Mapping[str, Mapping[str, float]]
    checkpoint: str | None = None
    dataset: str | None = None
    details: Json = field(default_factory=dict[str, object])  # columns beside them

    def write(self, wh: Warehouse) -> Json:
        """Keep it in the warehouse of the home folder; returns what was written."""
        record = asdict(self) | dict(self.details) | {"created_at": datetime.now(UTC).isoformat()}
        del record["details"]
        wh.write_record("evaluations", self.id, record)
        return record


def figure_of(value: float | None, clips: int) -> dict[str, float] | None:
    """A figure of a record, None where there is no value."""
    return None if value is None else {"value": value, "clips": clips}


def funnel(wh: Warehouse, fingerprints: Mapping[str, str], clip_ids: Sequence[str]) -> list[Json]:
    """Clips passed, rejected and failed by stage, with how often each reason was given."""
    columns = ["clip_id", "status", "reason", "error", "message"]
    steps: list[dict[str, object]] = []
    for stage, fingerprint in {"clips": "source", **fingerprints}.items():
        rows = wh.rows(stage, fingerprint, None, columns, clip_ids).to_pylist()
        counts = Counter(row["status"] for row in rows)
        reasons = Counter(reason(row) for row in rows if row["status"] in ("rejected", "failed"))
        step = {name: counts[name] for name in ("passed", "rejected", "failed")}
        steps.append({"stage": stage, **step, "reasons": dict(sorted(reasons.items()))})
    return steps


def reason(row: Mapping[str, object]) -> str:
    """Why a clip did not pass, without the name of its file, so that like cases count together."""
    if row["reason"]:
        return str(row["reason"])
    message = str(row["message"] or row["error"] or "unknown")
    return message.split(": ", 1)[-1] if message.startswith("/") else message


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def machine() -> Json:
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


def figures(results: Json) -> str:
    """The sync table, v-loss and, where any prompt was swapped, prompt swap as text."""
    labels = {
        "true": "its own video",
        "other": "another clip's video",
        "none": "no video, text only",
    }
    columns = {"f1_60ms": "F1 60 ms", "f1_100ms": "F1 100 ms", "mae_ms": "error ms"}
    rows = [
        {"sound made for": label} | {t: results["sync"][name][k] for k, t in columns.items()}
        for name, label in labels.items()
    ]
    loss, swap = results["v_loss"], results["prompt_swap"]
    share, f1 = swap["material_accuracy"], swap["f1_60ms"]
    text = (
        f"{render(rows)}\n\n"
        f"v-loss: {loss['true']:.4f} with its own video, {loss['null']:.4f} with none, "
        f"{loss['other']:.4f} with another clip's"
    )
    if f1 is not None:
        took = "unknown how many" if share is None else f"{share:.0%}"
        text += f"\nprompt swap: {took} take the new material, F1 60 ms {f1:.3f}"
    if worlds := results.get("worlds"):
        told = (f"{name.replace('_', ' ')} {value:g}" for name, value in worlds.items())
        text += f"\nof worlds: {', '.join(told)}"
    return text

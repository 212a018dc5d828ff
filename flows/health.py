"""The flow that looks whether the factory is well, and fails, which is told, where it is not."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from flows.display.artifacts import show_rows
from flows.parameters import HealthParameters
from flows.running.recording import named_flow, recorded
from pipeline.curation.health import Limits, check_health
from warehouse import FoleyError, Warehouse


@named_flow("health")
def health(parameters: HealthParameters) -> list[dict[str, Any]]:
    """Check sources, the dataset and failures; raises FoleyError with all that is not well."""
    wh = Warehouse(parameters.home)
    limits = Limits(parameters.days, parameters.moved, parameters.failed)
    with recorded(wh, "health", parameters):
        now = datetime.now(UTC)
        found = sorted(check_health(wh, limits, now), key=lambda check: check.ok)
        checks: list[dict[str, Any]] = [asdict(check) | {"ok": check.ok} for check in found]
        record = {"checked_at": now.isoformat(), "checks": checks}
        wh.write_record("health", f"{now:%Y%m%dT%H%M%S%f}", record)
        show_rows("health", checks, "what is not well, then what is")
        if wrong := [check.message for check in found if not check.ok]:
            raise FoleyError("; ".join(wrong))
    return checks

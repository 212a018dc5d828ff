"""What a benchmark gives: figures as plain mappings."""

from typing import Any

Figure = dict[str, Any]


def figure(
    name: str, value: float, unit: str, against: str | None = None, ratio: float | None = None
) -> Figure:
    """A figure of which less is better; `ratio` is to what it is compared with."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "better": "lower",
        "against": against,
        "ratio": ratio,
    }

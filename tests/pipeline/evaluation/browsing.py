"""What is asked of a page of systems in a browser."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.pipeline.evaluation.systems import COUNT

#: Notes every change of a sound's loudness, which is how the page switches between them.
LISTEN = """
window.gains = []
const set = AudioParam.prototype.setTargetAtTime
AudioParam.prototype.setTargetAtTime = function (value, ...rest) {
  window.gains.push(value)
  return set.call(this, value, ...rest)
}
"""


def is_sorted_by(page: Page, metric: str) -> None:
    """Click a heading of the table of clips twice.

    Up, then down, with clips that have no figure last.
    """
    table = page.locator("#clip-scores")
    heading = table.get_by_role("button", name=metric)
    index = 1 + heading.evaluate(
        "button => [...button.closest('tr').cells].indexOf(button.closest('th'))"
    )
    for down in (False, True):
        heading.click()
        column = table.locator(f"tbody tr > :nth-child({index})")
        values = column.locator("data").evaluate_all(
            "cells => cells.map(cell => Number(cell.value))"
        )
        assert len(values) == 2 * COUNT + 3
        assert len(set(values)) > 2
        assert values == sorted(values, reverse=down)

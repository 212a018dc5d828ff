"""What a run leaves behind of itself, however it ends, and what keeps it from beginning."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prefect.exceptions import Pause, TerminationSignal
from prefect.logging import disable_run_logger

from flows.parameters import MaintainParameters, ScanParameters
from flows.running import recording
from flows.running.recording import recorded
from warehouse import FoleyError, Warehouse, query


@pytest.fixture(autouse=True)
def _no_run() -> Iterator[None]:
    with disable_run_logger():
        yield


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "completed"),
        (FoleyError("no weights"), "failed"),
        (Pause(), "paused"),
        (TerminationSignal(signal=15), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (RuntimeError("INTERRUPT Error: Query interrupted"), "cancelled"),  # as DuckDB has Ctrl-C
    ],
)
def test_a_run_is_told_as_it_ended(tmp_path: Path, error: BaseException | None, state: str) -> None:
    wh = Warehouse(tmp_path / "home")
    with suppress(BaseException), recorded(wh, "maintenance", MaintainParameters(home=wh.home)):
        if error:
            raise error
    [record] = wh.records("runs")
    assert record["state"] == state
    wh.publish()
    assert query(wh.home, "select state from runs").to_pylist() == [{"state": state}]


def test_the_catalog_has_a_run_that_failed_without_another_one(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path / "home")
    with (
        pytest.raises(ZeroDivisionError),
        recorded(wh, "maintenance", MaintainParameters(home=wh.home)),
    ):
        raise ZeroDivisionError
    assert query(wh.home, "select state from runs").to_pylist() == [{"state": "failed"}]


def test_what_cannot_be_is_not_begun(tmp_path: Path) -> None:
    wh, begun = Warehouse(tmp_path / "home"), list[bool]()
    parameters = ScanParameters(home=wh.home, folder=tmp_path / "gone")
    with pytest.raises(FoleyError, match="no such folder"), recorded(wh, "scan", parameters):
        begun.append(True)
    assert (begun, [record["state"] for record in wh.records("runs")]) == ([], ["failed"])


def test_one_of_a_kind_works_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wh, order, second_is_here = Warehouse(tmp_path / "home"), list[str](), threading.Event()

    class Logger:
        def info(self, text: str, *_: object) -> None:
            order.append(text[:7])
            second_is_here.set()

    def second() -> None:
        parameters = MaintainParameters(home=wh.home)
        with recorded(Warehouse(wh.home), "another", parameters, alone="work"):
            order.append("second")
        second_is_here.set()

    monkeypatch.setattr(recording, "get_run_logger", Logger)
    thread = threading.Thread(target=second)
    with recorded(wh, "maintenance", MaintainParameters(home=wh.home), alone="work"):
        thread.start()
        assert second_is_here.wait(60)
        order.append("first")
    thread.join()
    assert order == ["another", "first", "second"]

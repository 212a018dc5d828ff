"""The download flow.

Clips of a public corpus or of a list of addresses, a task an archive or a batch of files.
"""

from __future__ import annotations

import csv
import json
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from tqdm import tqdm

from flows.display.progress_bars import bar
from flows.parameters import DownloadParameters
from flows.running.recording import one_line_errors, recorded
from pipeline.curation.sources import read_rows
from pipeline.download import (
    Choice,
    Fetcher,
    TransferSettings,
    UnitResult,
    archive_folder,
    check_space,
    fetch_archive,
    fetch_file,
    manifest_of,
    sweep,
)
from pipeline.download.kinetics import Kinetics, annotated_clips, archives, choice, compare
from pipeline.download.units import Progress, scratch
from warehouse import FoleyError, Warehouse
from warehouse.files import make_folder, write_file, write_json

_BATCH = 64  # files of a list a task


@dataclass(frozen=True)
class Downloaded:
    """What a download did.

    Units (archives, files) by fate, clips that are there, and where the list of them is.
    """

    folder: Path
    units: int
    fetched: int
    clips: int
    failed: tuple[tuple[str, str], ...]
    without_video: int
    without_row: int
    counts: dict[str, dict[str, int]]


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{name}")
def fetch(
    name: str,
    fetcher: Fetcher,
    urls: Sequence[str],
    root: Path,
    chosen: Choice | None,
    progress: Progress,
) -> list[UnitResult]:
    """One archive (with a choice of its clips), or a batch of files."""
    del name
    found = [
        fetch_file(fetcher, url, root, progress)
        if chosen is None
        else fetch_archive(fetcher, url, root, chosen, progress)
        for url in urls
    ]
    for unit in found:
        if unit.error:
            get_run_logger().error("%s", unit.error)
    return found


@flow(name="download", flow_run_name="download {parameters.source}", validate_parameters=True)
@one_line_errors
def download(parameters: DownloadParameters) -> Downloaded:
    """Fetch what is not there yet, then list the clips in `clips.jsonl`, which `curate` reads.

    Stopped at any moment, it goes on where it was: an archive or file that is whole is not fetched
    again. What could not be had is in the result and in `download.json`, and is tried again by the
    next run. Raises FoleyError if the disk cannot hold it, or the source makes no sense.
    """
    wh = Warehouse(parameters.home)
    name = Path(parameters.source).stem
    root = make_folder((parameters.folder or parameters.home / "sources" / name).absolute())
    sweep(root)
    fetcher = Fetcher(TransferSettings(retries=parameters.retries, per_host=parameters.per_host))
    with recorded(wh, "download", parameters) as record:
        if parameters.source == "kinetics700":
            result, rows = _kinetics(parameters, fetcher, root)
        else:
            result, rows = _list(parameters, fetcher, root)
        lines = "".join(
            json.dumps(row, ensure_ascii=False) + "\n"
            for row in sorted(rows, key=lambda r: r["file"])
        )
        write_file(scratch(root), lambda file: file.write(lines.encode()), root / "clips.jsonl")
        record["download"] = {
            "clips": result.clips,
            "failed": len(result.failed),
            "folder": str(root),
        }
    return result


def _kinetics(
    parameters: DownloadParameters, fetcher: Fetcher, root: Path
) -> tuple[Downloaded, list[dict[str, Any]]]:
    chosen = Kinetics(
        parameters.base_url.rstrip("/") + "/",
        parameters.splits,
        parameters.classes,
        parameters.template,
        parameters.archives,
    )
    annotated = [row for split in chosen.splits for row in annotated_clips(fetcher, chosen, split)]
    urls = [url for split in chosen.splits for url in archives(fetcher, chosen, split)]
    wanted = choice(chosen, annotated)
    left = [url for url in urls if not wanted.is_in(manifest_of(archive_folder(root, url)))]
    total = _announced(fetcher, left, parameters.workers)
    check_space(root, round(total * wanted.share))
    units = _fetch_all(parameters.workers, fetcher, [[url] for url in urls], root, wanted, total)
    found = compare(chosen, annotated, [unit for unit in units if not unit.error], root)
    report = {
        "without_video": found.without_video,
        "without_row": found.without_row,
        "counts": found.counts,
    }
    result = _summed(root, units, len(found.rows), report)
    return result, [*_listed_before(root, {row["file"] for row in found.rows}), *found.rows]


def _listed_before(root: Path, now: set[str]) -> list[dict[str, Any]]:
    """What earlier downloads of other classes or splits listed, and is still there."""
    try:
        rows = [
            json.loads(line)
            for line in (root / "clips.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    except FileNotFoundError:
        return []
    return [row for row in rows if row["file"] not in now and (root / row["file"]).is_file()]


def _list(
    parameters: DownloadParameters, fetcher: Fetcher, root: Path
) -> tuple[Downloaded, list[dict[str, Any]]]:
    path = Path(parameters.source)
    if path.suffix.lower() != ".csv":
        raise FoleyError(
            f"source {parameters.source!r}: use kinetics700, or the path of a .csv file"
        )
    try:
        listed = read_rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise FoleyError(f"{path}: cannot be read as CSV: {error}") from None
    urls = list(dict.fromkeys(row["url"] for row in listed if row.get("url")))
    wrong = [row for row in listed if not row.get("url") and not row.get("file")]
    if wrong or not listed:
        raise FoleyError(
            f"{path}: {'a line has' if wrong else 'no line,'} neither a url nor a file"
        )
    batches = [urls[i : i + _BATCH] for i in range(0, len(urls), _BATCH)]
    units = {
        unit.url: unit
        for unit in _fetch_all(parameters.workers, fetcher, batches, root, None, None)
    }
    rows: list[dict[str, Any]] = []
    for row in listed:
        unit = units.get(row.get("url", ""))
        if unit is None or not unit.error:
            place = (
                str(unit.manifest["file"]) if unit else str((path.parent / row["file"]).absolute())
            )
            rows.append({**row, "file": place})
    return _summed(root, list(units.values()), len(rows), {}), rows


def _announced(fetcher: Fetcher, urls: Sequence[str], workers: int) -> int:
    """Bytes that the servers announce.

    One that says nothing counts as none, and is found out when it is fetched.
    """

    def length(url: str) -> int:
        try:
            return fetcher.look(url).length or 0
        except FoleyError:
            return 0

    with bar("look", len(urls), "file") as progress, ThreadPoolExecutor(workers) as pool:
        return sum(n for n in pool.map(length, urls) if progress.update() or True)


def _fetch_all(
    workers: int,
    fetcher: Fetcher,
    batches: Sequence[list[str]],
    root: Path,
    chosen: Choice | None,
    total: int | None,
) -> list[UnitResult]:
    """All batches, a task each; the bar counts bytes and clips."""
    units: list[UnitResult] = []
    with tqdm(
        total=total, desc=f"{'download':<16}", unit="B", unit_scale=True, disable=None
    ) as progress:
        for found in _results(workers, fetcher, batches, root, chosen, progress.update):
            units += found
            clips, failed = (
                sum(unit.clips for unit in units),
                sum(unit.error is not None for unit in units),
            )
            progress.set_postfix_str(f"{clips} clips, {failed} failed")
    return units


def _results(
    workers: int,
    fetcher: Fetcher,
    batches: Sequence[list[str]],
    root: Path,
    chosen: Choice | None,
    progress: Progress,
) -> Iterator[list[UnitResult]]:
    """Results as they come, never more than `workers` tasks unfinished.

    Raises what no other task would survive.
    """
    finished: queue.SimpleQueue[PrefectFuture[list[UnitResult]]] = queue.SimpleQueue()
    waiting = iter(batches)
    running = 0
    while True:
        for urls in islice(waiting, workers - running):
            name = Path(urls[0]).name
            future = fetch.submit(name, fetcher, urls, root, chosen, progress)
            future.add_done_callback(finished.put)
            running += 1
        if not running:
            return
        found: Any = finished.get().result(raise_on_failure=False)
        running -= 1
        if isinstance(found, BaseException):
            raise found
        yield found


def _summed(
    root: Path, units: Sequence[UnitResult], clips: int, report: dict[str, Any]
) -> Downloaded:
    failed = tuple((unit.url, unit.error) for unit in units if unit.error)
    left_out = {
        unit.url: unit.manifest["left_out"] for unit in units if unit.manifest.get("left_out")
    }
    write_json(
        scratch(root),
        root / "download.json",
        {"clips": clips, "failed": dict(failed), "left_out": left_out, **report},
    )
    return Downloaded(
        folder=root,
        units=len(units),
        fetched=sum(unit.fetched for unit in units),
        clips=clips,
        failed=failed,
        without_video=len(report.get("without_video", ())),
        without_row=len(report.get("without_row", ())),
        counts=report.get("counts", {}),
    )

"""The download flow.

Clips of a public corpus or of a list of addresses, a task an archive or a batch of files.
"""

import json
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from prefect import get_run_logger, task
from prefect.futures import PrefectFuture
from tqdm import tqdm

from flows.display.progress_bars import bar
from flows.parameters import DownloadParameters
from flows.running.recording import named_flow, recorded
from pipeline.curation.registry import check, register
from pipeline.curation.sources import read_rows
from pipeline.download.kinetics import (
    Comparison,
    Kinetics,
    annotated_clips,
    archives,
    choice,
    compare,
)
from pipeline.download.transfer import Fetcher, TransferSettings
from pipeline.download.units import (
    Choice,
    Progress,
    UnitResult,
    archive_folder,
    check_space,
    fetch_archive,
    fetch_file,
    manifest_of,
    scratch,
    sweep,
)
from warehouse import FoleyError, Warehouse
from warehouse.files import Json, make_folder, write_file, write_json

_BATCH = 64  # files of a list a task


@dataclass(frozen=True)
class Downloaded:
    """What became of archives and files, clips that are there, and where the list of them is."""

    folder: Path
    units: int
    fetched: int
    clips: int
    failed: tuple[tuple[str, str], ...]
    without_video: int
    without_row: int
    counts: dict[str, dict[str, int]]


@dataclass(frozen=True)
class _Job:
    """What the tasks of a download share; `choice` is of the clips of archives, None for files."""

    fetcher: Fetcher
    root: Path
    workers: int
    choice: Choice | None = None


@task(persist_result=False, task_run_name="{name}")
def fetch(name: str, urls: Sequence[str], job: _Job, progress: Progress) -> list[UnitResult]:
    """One archive, or a batch of files."""
    del name
    units = [
        fetch_file(job.fetcher, url, job.root, progress)
        if job.choice is None
        else fetch_archive(job.fetcher, url, job.root, job.choice, progress)
        for url in urls
    ]
    for unit in units:
        if unit.error:
            get_run_logger().error("%s", unit.error)
    return units


@named_flow("download {parameters.source}")
def download(parameters: DownloadParameters) -> Downloaded:
    """Fetch what is not there yet, then list the clips in `clips.jsonl`, which `curate` reads.

    Stopped at any moment, it goes on where it was: an archive or file that is whole is not fetched
    again. What could not be had is in the result and in `download.json`, and is tried again by the
    next run. The folder becomes a source of the warehouse. Raises FoleyError if the disk cannot
    hold it, the source makes no sense, or another has its name.
    """
    wh = Warehouse(parameters.home)
    name = Path(parameters.source).stem
    root = make_folder((parameters.folder or parameters.home / "sources" / name).absolute())
    check(wh, root, parameters.name)
    sweep(root)
    settings = TransferSettings(retries=parameters.retries, per_host=parameters.per_host)
    job = _Job(Fetcher(settings), root, parameters.workers)
    with recorded(wh, "download", parameters) as record:
        if parameters.source == "kinetics700":
            result, rows = _kinetics(parameters, job)
        else:
            result, rows = _list(Path(parameters.source), job)
        rows = sorted(rows, key=lambda row: row["file"])
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_file(scratch(root), lambda file: file.write(lines.encode()), root / "clips.jsonl")
        kind = parameters.source if parameters.source == "kinetics700" else "list"
        register(wh, root, parameters.name, kind)
        failed = len(result.failed)
        record["download"] = {"clips": result.clips, "failed": failed, "folder": str(root)}
    return result


def _kinetics(parameters: DownloadParameters, job: _Job) -> tuple[Downloaded, list[Json]]:
    fetcher, root = job.fetcher, job.root
    base, asked = parameters.base_url.rstrip("/") + "/", parameters
    chosen = Kinetics(base, asked.splits, asked.classes, asked.template, asked.archives)
    annotated = [row for split in chosen.splits for row in annotated_clips(fetcher, chosen, split)]
    urls = [url for split in chosen.splits for url in archives(fetcher, chosen, split)]
    wanted = choice(chosen, annotated)
    left = [url for url in urls if not wanted.is_in(manifest_of(archive_folder(root, url)))]
    total = _announced(job, left)
    check_space(root, round(total * wanted.share))
    units = _fetch_all(replace(job, choice=wanted), [[url] for url in urls], total)
    compared = compare(chosen, annotated, [unit for unit in units if not unit.error], root)
    listed = _listed_before(root, {row["file"] for row in compared.rows})
    return _summed(root, units, len(compared.rows), compared), [*listed, *compared.rows]


def _listed_before(root: Path, now: set[str]) -> list[dict[str, object]]:
    """What earlier downloads of other classes or splits listed, and is still there."""
    listing = root / "clips.jsonl"
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["file"] not in now and (root / row["file"]).is_file()]


def _list(path: Path, job: _Job) -> tuple[Downloaded, list[Json]]:
    listed = read_rows(path)
    urls = list(dict.fromkeys(row["url"] for row in listed if row.get("url")))
    wrong = [row for row in listed if not row.get("url") and not row.get("file")]
    if wrong or not listed:
        raise FoleyError(
            f"{path}: {'a line has' if wrong else 'no line,'} neither a url nor a file"
        )
    batches = [urls[i : i + _BATCH] for i in range(0, len(urls), _BATCH)]
    units = {unit.url: unit for unit in _fetch_all(job, batches)}
    rows: list[dict[str, object]] = []
    for row in listed:
        unit = units.get(row.get("url", ""))
        if unit is None:
            rows.append({**row, "file": str((path.parent / row["file"]).absolute())})
        elif not unit.error:
            rows.append({**row, "file": str(unit.manifest["file"])})
    return _summed(job.root, list(units.values()), len(rows)), rows


def _announced(job: _Job, urls: Sequence[str]) -> int:
    """Bytes that the servers announce; one that says nothing is found out when it is fetched."""

    def length(url: str) -> int:
        try:
            return job.fetcher.look(url).length or 0
        except FoleyError:
            return 0

    with bar("look", len(urls), "file") as progress, ThreadPoolExecutor(job.workers) as pool:
        return sum(n for n in pool.map(length, urls) if progress.update() or True)


def _fetch_all(
    job: _Job, batches: Sequence[list[str]], total: int | None = None
) -> list[UnitResult]:
    """All batches, a task each, never more than `workers` unfinished; the bar counts bytes.

    Raises what no other task would survive.
    """
    finished: queue.SimpleQueue[PrefectFuture[list[UnitResult]]] = queue.SimpleQueue()
    waiting, running = iter(batches), 0
    units: list[UnitResult] = []
    with tqdm(
        total=total, desc=f"{'download':<16}", unit="B", unit_scale=True, disable=None
    ) as progress:
        while True:
            for urls in islice(waiting, job.workers - running):
                future = fetch.submit(Path(urls[0]).name, urls, job, progress.update)
                future.add_done_callback(finished.put)
                running += 1
            if not running:
                return units
            result: object = finished.get().result(raise_on_failure=False)
            running -= 1
            if isinstance(result, BaseException):
                raise result
            units += result
            failed = sum(unit.error is not None for unit in units)
            progress.set_postfix_str(f"{sum(u.clips for u in units)} clips, {failed} failed")


def _summed(
    root: Path, units: Sequence[UnitResult], clips: int, compared: Comparison | None = None
) -> Downloaded:
    """The result, and download.json."""
    failed = {unit.url: unit.error for unit in units if unit.error}
    left_out = {u.url: u.manifest["left_out"] for u in units if u.manifest.get("left_out")}
    report: Json = {"clips": clips, "failed": failed, "left_out": left_out}
    if compared:
        names = ("without_video", "without_row", "counts")
        report |= {name: getattr(compared, name) for name in names}
    write_json(scratch(root), root / "download.json", report)
    return Downloaded(
        folder=root,
        units=len(units),
        fetched=sum(unit.fetched for unit in units),
        clips=clips,
        failed=tuple(failed.items()),
        without_video=len(report.get("without_video", ())),
        without_row=len(report.get("without_row", ())),
        counts=report.get("counts", {}),
    )

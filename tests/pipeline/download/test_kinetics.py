"""The clips of a mirror with their labels: all of them, or those of a few classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.download.kinetics import Kinetics, annotated_clips, archives, choice, compare
from pipeline.download.transfer import Fetcher
from pipeline.download.units import fetch_archive
from tests.pipeline.download.mirror import LABELS, QUICK, Mirror
from warehouse import FoleyError


def test_the_corpus_of_the_mirror(tmp_path: Path, mirror: tuple[Mirror, str]) -> None:
    base, fetcher = mirror[1], Fetcher(QUICK)
    chosen = Kinetics(base, template="the sound of {label}")
    annotated = [row for split in chosen.splits for row in annotated_clips(fetcher, chosen, split)]
    urls = [url for split in chosen.splits for url in archives(fetcher, chosen, split)]
    assert len(urls) == 5
    done = [fetch_archive(fetcher, url, tmp_path) for url in urls]
    found = compare(chosen, annotated, done, tmp_path)
    assert len(found.rows) == 16
    assert found.without_video == ["train/gone_video__000005_000015.mp4"]
    assert found.without_row == ["train/k700_train_001/no_row_here_000001_000011.mp4"]
    assert found.counts["val"] == {
        "clips": 3, "annotated": 3, "published_least": 34_000, "published_most": 34_000,
        "short_of_published": 33_997,
    }  # fmt: skip
    by_split = {
        split: [row for row in found.rows if row["split"] == split] for split in chosen.splits
    }
    assert {row["label"] for row in by_split["train"]} == set(LABELS)
    assert {row["prompt"] for row in by_split["val"]} == {
        f"the sound of {label}" for label in LABELS
    }
    assert {row["label"] for row in by_split["test"]} == {None}
    assert all((tmp_path / row["file"]).is_file() for row in found.rows)
    assert all(
        row["youtube_id"].startswith("-")
        for row in by_split["train"]
        if "no_row" not in row["file"]
    )


def test_a_few_classes(tmp_path: Path, mirror: tuple[Mirror, str]) -> None:
    base, fetcher = mirror[1], Fetcher(QUICK)
    chosen = Kinetics(base, ("train",), (LABELS[1],))
    annotated = annotated_clips(fetcher, chosen, "train")
    done = [
        fetch_archive(fetcher, u, tmp_path, choice(chosen, annotated))
        for u in archives(fetcher, chosen, "train")
    ]
    assert [result.clips for result in done] == [0, 3, 0]
    assert {row["label"] for row in compare(chosen, annotated, done, tmp_path).rows} == {LABELS[1]}
    with pytest.raises(FoleyError, match="no class is called 'flying'"):
        annotated_clips(fetcher, replace(chosen, classes=("flying",)), "train")

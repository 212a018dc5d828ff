"""Cue sheets of the command line, of spreadsheets and of editors, and what they make of a sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.sampling.request import Stretch
from pipeline.generation.cues import Cue, read_cues, stretches_of
from pipeline.generation.times import frames_of
from warehouse.errors import FoleyError

STEPS, DOOR = Cue(0, 3.2, "footsteps on gravel"), Cue(3.2, 66, "a door; slams")
EDL = """TITLE: marks
FCM: NON-DROP FRAME

001  001      V     C        01:00:00:00 01:00:00:01 01:00:00:00 01:00:00:01
 |C:ResolveColorBlue |M:footsteps on gravel |D:1

002  AX       V     C        00:00:00:00 00:00:02:20 01:00:03:05 01:01:06:00
* FROM CLIP NAME: a door; slams
"""


def test_a_sheet_is_read_from_a_line_a_table_and_an_edl(tmp_path: Path) -> None:
    rows = '0;3.2;footsteps on gravel\n0:03.2;1:06;"a door; slams"\n'
    (tmp_path / "a.csv").write_text(f"Start;End;Prompt\n{rows}")
    (tmp_path / "a.edl").write_text(EDL)
    assert read_cues("0-3.2 footsteps on gravel; 3.2 - 1:06 door") == [STEPS, Cue(3.2, 66, "door")]
    assert read_cues(str(tmp_path / "a.csv")) == [STEPS, DOOR]
    found = read_cues(str(tmp_path / "a.edl"), fps=25.0)
    assert [cue.prompt for cue in found] == [STEPS.prompt, DOOR.prompt]
    assert [(cue.start, cue.end) for cue in found] == [(0, 3.2), (3.2, 66)]
    late = read_cues(str(tmp_path / "a.edl"), fps=25.0, timecode="00:59:58:00")
    assert [cue.start for cue in late] == [2, pytest.approx(5.2)]


def test_a_short_shot_of_an_edl_costs_no_other_its_prompt(tmp_path: Path) -> None:
    """Five pictures of 25 a second."""
    short = "001  AX       V     C        00:00:00:00 00:00:00:05 01:00:02:00 01:00:02:05\n"
    long = "002  AX       V     C        00:00:00:00 00:00:02:00 01:00:02:05 01:00:04:05\n"
    (tmp_path / "a.edl").write_text(
        f"{short}* FROM CLIP NAME: flash\n{long}* FROM CLIP NAME: rain\n"
    )
    cues = read_cues(str(tmp_path / "a.edl"), 25.0, "01:00:00:00")
    assert cues == [Cue(2, 2.2, "flash"), Cue(2.2, 4.2, "rain")]
    assert stretches_of(cues, [], "wind", 6) == (
        Stretch(0, "wind"), Stretch(2.2, "rain"), Stretch(4.2, "wind"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("footsteps", "'footsteps' is no cue"),
        ("3-2 footsteps", "lasts 0.25 s at least"),
        ("0-2 steps; 1-3 door", "'door' starts at 1 s, before 'steps' ends"),
        ("1:x-3 steps", "is no cue"),
        (" ; ", "holds no cue"),
        ("nan.csv", "nan.csv, line 2: 'nan' to '2' are no times"),
        ("inf.csv", "inf.csv, line 2: '0' to 'inf' are no times"),
        ("gone.csv", "no such file: gone.csv"),
        ("gone.edl", "gone.edl: cannot be read as EDL"),
    ],
)
def test_what_is_no_cue_is_said(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nan.csv").write_text("start,end,prompt\nnan,2,steps\n")
    Path("inf.csv").write_text("start,end,prompt\n0,inf,steps\n")
    with pytest.raises(FoleyError, match=said):
        read_cues(text)


def test_timecode_counts_frames_that_are_there() -> None:
    """Drop frame leaves out numbers so that an hour of it is an hour: SMPTE 12M's own example."""
    assert frames_of("00:01:00:00", 25, "") == 1500
    assert frames_of("00:00:59;29", 29.97, "") + 1 == frames_of("00:01:00;02", 29.97, "")
    assert frames_of("00:10:00;00", 29.97, "") == 17982
    assert frames_of("01:00:00;00", 59.94, "") == 2 * 107892
    with pytest.raises(FoleyError, match="is no timecode"):
        frames_of("1:00", 25, "")


def test_prompts_change_at_cuts_where_they_are_meant_to() -> None:
    cues = [Cue(1, 3.1, "steps"), Cue(3.1, 5, "door")]
    assert stretches_of(cues, [3.0, 7.0], "wind", 9.0) == (
        Stretch(0, "wind"),
        Stretch(1, "steps"),
        Stretch(3.0, "door", cut=True),
        Stretch(5, "wind"),
        Stretch(7.0, "wind", cut=True),
    )
    assert stretches_of([], [], "wind", 9.0) == ()
    assert stretches_of([Cue(0, 99, "rain")], [], "wind", 9.0) == (Stretch(0, "rain"),)
    assert stretches_of([], [4.0], "", 9.0) == (Stretch(0, ""), Stretch(4.0, "", cut=True))


def test_cues_count_within_the_sound_alone() -> None:
    """Markers of an editor may lie before a video's first picture, and behind its last."""
    cues = [Cue(-9, -1, "gone"), Cue(-1, 0.1, "too short"), Cue(2, 3, "steps"), Cue(8, 99, "door")]
    assert stretches_of(cues, [], "wind", 9.0) == (
        Stretch(0, "wind"),
        Stretch(2, "steps"),
        Stretch(3, "wind"),
        Stretch(8, "door"),
    )
    assert stretches_of([Cue(-2, 1, "rain")], [], "wind", 9.0)[0] == Stretch(0, "rain")
    assert stretches_of([Cue(0, 3, "rain")], [], "wind", 0.2) == (Stretch(0, "rain"),)


def test_a_cue_over_a_cut_counts_on_both_sides() -> None:
    """Both of its ends are beside the cut: at the cut nothing would be left of it."""
    assert stretches_of([Cue(2.8, 3.2, "clap")], [3.0], "wind", 9.0) == (
        Stretch(0, "wind"),
        Stretch(2.8, "clap"),
        Stretch(3.0, "clap", cut=True),
        Stretch(3.2, "wind"),
    )

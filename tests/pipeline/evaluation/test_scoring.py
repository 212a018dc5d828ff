"""Figures of an evaluation against what is known of features made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy

from model.metrics.metrics import MetricError, paired_p
from pipeline.evaluation.metrics import CHUNK, METRICS, best_offset
from pipeline.evaluation.scoring import _bootstrap_p, clip_scores, comparisons, counts, summarise
from pipeline.evaluation.sets import System
from tests.pipeline.evaluation.hand_made import check, files, heard_at, inputs


def test_kl_is_from_the_true_sound_to_the_systems_clip_by_clip() -> None:
    true = {"a": [2.0, 0.0, 1.0], "b": [0.0, 3.0, 0.0], "broken": [0.0, 0.0, 0.0]}
    made = {"b": [1.0, 0.0, 0.5], "a": [0.0, 0.0, 0.0], "stranger": [1.0, 0.0, 0.0]}
    of = inputs(files({"hear_panns": made}), files({"hear_panns": true}), names="abc")

    def probabilities(logits: list[float]) -> np.ndarray:
        return np.exp(logits) / np.exp(logits).sum()

    want = {n: entropy(probabilities(true[n]), probabilities(made[n])) for n in "ab"}
    assert METRICS["kl_panns"].function(of) == pytest.approx(want)
    assert METRICS["kl_passt"].function(of) == {}


def test_a_sound_is_set_against_the_picture_of_its_own_video() -> None:
    seen = files({"watch_imagebind": {"a": [[3.0, 4.0]], "b": [[0.0, 2.0]]}})
    made = files({"hear_imagebind": {"a": [[4.0, 3.0]], "b": [[-1.0, 0.0]], "c": [[1.0, 1.0]]}})
    found = METRICS["ib"].function(inputs(made, video=seen))
    assert found == pytest.approx({"a": 24 / 25, "b": 0.0})


def test_desync_is_of_each_clip_whatever_the_lengths_and_however_many() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    places = {name: 1 + i % 9 for i, name in enumerate(letters)}
    assert sum(i % 3 != 0 for i in range(len(letters))) > CHUNK
    seen = {n: np.ones((1, 1)) for n in letters}
    made = {n: np.full((1 + (i % 3 == 0), 1), 1.0) for i, n in enumerate(letters)}
    for n in letters:
        made[n] *= places[n] / len(made[n])
    of = inputs(
        files({"hear_synchformer": made}), video=files({"watch_synchformer": seen}), names=letters
    )
    want = {n: 0.2 * place for n, place in places.items()}  # class 10 is no offset
    assert METRICS["desync"].function(of) == pytest.approx(want)


def test_onsets_are_set_against_the_impacts_of_their_own_clip() -> None:
    heard = {"a": heard_at(1.0, 2.0), "b": heard_at(0.55), "c": heard_at(1.0), "e": heard_at(0.58)}
    made = files(checks=heard)
    of = inputs(made, impacts={"a": [1.0], "b": [0.5], "d": [1.0], "e": [0.5]}, names="abcde")
    want = {"a": 2 / 3, "b": 1.0, "e": 0.0}
    assert METRICS["onset_f1"].function(of) == pytest.approx(want)


@pytest.mark.parametrize("late", [-2.0, -0.31, 0.0, 0.5, 2.0])
def test_the_true_offset_is_positive_where_sound_is_late(late: float) -> None:
    impacts = np.array([2.1, 3.0, 4.4])
    assert best_offset(impacts, impacts + late) == pytest.approx(late, abs=1e-9)
    # one sound between two impacts agrees with either: the nearer counts
    assert best_offset(np.array([1.0, 2.5]), np.array([1.5])) == pytest.approx(0.5)


def test_an_inception_score_needs_two_sounds_a_part() -> None:
    def score(count: int) -> float:
        names = [f"{i:02d}" for i in range(count)]
        alike = {n: [1.0, 0.0] for n in names}
        return METRICS["is"].function(inputs(files({"hear_panns": alike})))

    assert score(20) == pytest.approx(1)
    with pytest.raises(MetricError, match="at least 20 sounds, not 19"):
        score(19)


def test_scores_are_of_the_clips_that_have_a_sound_and_of_what_they_can_be_set_against() -> None:
    logits = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    made = files({"hear_panns": logits}, {n: heard_at(1.0) for n in "ab"})
    of = inputs(made, files({"hear_panns": {"a": [1.0, 0.0]}}), impacts={"b": [1.0]})
    assert clip_scores(of) == {"a": {"kl_panns": 0.0}, "b": {"onset_f1": 1.0, "true_offset": 0.0}}


def test_a_figure_is_a_mean_over_clips_and_one_with_a_direction_of_its_size() -> None:
    scores = {"a": {"ib": -0.5, "true_offset": -0.4}, "b": {"ib": 0.3, "true_offset": 0.2}, "c": {}}
    figures, _ = summarise("s", inputs(files()), scores, None)
    assert figures["ib"]["value"] == pytest.approx(-0.1)
    assert figures["true_offset"]["value"] == pytest.approx(0.3)
    assert {f["clips"] for f in figures.values()} == {2}
    assert figures["ib"]["low"] == pytest.approx(-0.5)
    assert figures["ib"]["high"] == pytest.approx(0.3)
    assert set(figures) == {"ib", "true_offset"}


def test_the_interval_of_a_distance_is_the_spread_of_its_samples_around_its_value() -> None:
    """Samples lie farther from the reference than the set: their own mean is not the value."""
    rng = np.random.default_rng(0)
    true, made = rng.standard_normal((2, 3, 4, 2))
    of = inputs(
        files({"hear_vggish": dict(zip("abc", made + 1, strict=True))}),
        files({"hear_vggish": dict(zip("abc", true, strict=True))}),
    )
    asked: list[tuple[str, str, tuple[str, ...]]] = []

    def samples(*what: object) -> np.ndarray:
        asked.append(what)  # pyright: ignore[reportArgumentType]
        return np.linspace(100.0, 101.0, 401)

    figures, unmeasured = summarise("s", of, {}, samples)
    value = METRICS["fd_vgg"].function(of)
    assert figures["fd_vgg"]["value"] == value
    assert figures["fd_vgg"]["low"] == pytest.approx(value - 0.475)
    assert figures["fd_vgg"]["high"] == pytest.approx(value + 0.475)
    assert figures["fd_vgg"]["clips"] == 3
    assert asked == [("s", "fd_vgg", ("a", "b", "c"))]
    assert "at least 2 features" in unmeasured["fd_panns"]
    small, _ = summarise("s", of, {}, lambda *_: np.linspace(0.0, 100 * value, 401))
    assert small["fd_vgg"]["low"] == 0.0  # no distance is less


def test_samples_of_a_distance_are_of_the_clips_named_against_all_true_sounds() -> None:
    rng = np.random.default_rng(1)
    made = {n: rng.standard_normal((2, 3)) for n in "abc"}
    true = {n: rng.standard_normal((2, 3)) + 1 for n in "abcd"}
    of = inputs(files({"hear_panns": made}), files({"hear_panns": true}), names="abcd")
    draw = METRICS["fd_panns"].samples
    assert draw is not None
    two = inputs(
        files({"hear_panns": {n: made[n] for n in "ab"}}), files({"hear_panns": true}), names="ab"
    )
    drawn = draw(of, ("a", "b"), 5)
    assert drawn == pytest.approx(draw(two, ("a", "b"), 5))
    assert len(drawn) == 5
    assert of.reference.pieces("hear_panns").shape == (8, 3)
    assert of.reference.pieces("hear_panns") == pytest.approx(np.concatenate([*true.values()]))


def test_systems_are_compared_on_the_scores_that_both_have() -> None:
    one = {"a": {"ib": 0.5}, "b": {"ib": 0.9}, "c": {"ib": 0.1}, "d": {"ib": 0.4}}
    other = {"a": {"ib": 0.2}, "b": {"ib": 0.3}, "c": {"ib": 0.2}, "d": {}, "e": {"ib": 9.0}}
    few = {"a": {"ib": 0.2}}
    of = {name: inputs(files()) for name in ("one", "other", "few")}
    rows = comparisons(of, {"one": one, "other": other, "few": few}, None)
    assert [(r["a"], r["b"], r["metric"], r["clips"]) for r in rows] == [("one", "other", "ib", 3)]
    assert rows[0]["difference"] == pytest.approx(0.8 / 3)
    p = paired_p(np.array([0.5, 0.9, 0.1]), np.array([0.2, 0.3, 0.2]))
    assert rows[0]["p"] == pytest.approx(p)


def test_distances_are_compared_by_samples_of_the_clips_that_both_have() -> None:
    def made(names: str) -> object:
        return inputs(files({"hear_panns": {n: [[1.0, 0.0]] for n in names}}))

    asked: list[tuple[str, str, tuple[str, ...]]] = []

    def samples(system: str, metric: str, names: tuple[str, ...]) -> np.ndarray:
        asked.append((system, metric, names))
        return np.array([3.0, 4.0, 5.0, 6.0]) if system == "one" else np.full(4, 3.5)

    of = {"one": made("abc"), "other": made("bcd")}
    rows = comparisons(of, {"one": {}, "other": {}}, samples)  # pyright: ignore[reportArgumentType]
    [row] = rows
    assert (row["metric"], row["clips"], row["difference"], row["p"]) == ("fd_panns", 2, 1.0, 0.5)
    assert asked == [("one", "fd_panns", ("b", "c")), ("other", "fd_panns", ("b", "c"))]


def test_p_of_samples_is_twice_the_smaller_side_and_never_none() -> None:
    assert _bootstrap_p(np.array([-1.0, 1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.4)
    assert _bootstrap_p(np.array([1.0, -1.0, -2.0, -3.0, -4.0])) == pytest.approx(0.4)
    assert _bootstrap_p(np.array([0.0, 1.0, 2.0, 3.0])) == pytest.approx(0.25)
    assert _bootstrap_p(np.arange(1.0, 11.0)) == pytest.approx(0.1)
    assert _bootstrap_p(np.zeros(10)) == 1.0


@pytest.mark.parametrize(
    ("changes", "said", "kind"),
    [
        ({"sound_peak_db": -60.0}, None, None),
        ({"sound_peak_db": -60.1}, "silent", "silent"),
        ({"sound_seconds": 7.5}, None, None),
        ({"sound_seconds": 7.49}, "short (7.49 s)", "short"),
        ({"sound_clipped_share": 0.01}, None, None),
        ({"sound_clipped_share": 0.02}, "clipped (2% of its samples at full scale)", "clipped"),
        ({"sound_rate": 16_000}, None, None),
        (
            {"sound_rate": 11_025},
            "sampled at 11.025 kHz (nothing above half of that is in it)",
            None,
        ),
        ({"sound_channels": 2}, None, None),
        ({"sound_channels": 3}, "3-channel (heard as the mean of all)", None),
        ({"sound_channels": 6}, "5.1 (heard as the mean of all)", None),
    ],
)
def test_what_may_lower_a_score_is_said_and_counted_from_its_threshold_on(
    changes: dict[str, object], said: str | None, kind: str | None
) -> None:
    of = inputs(files(checks={"a": check(**changes), "b": check()}))
    found = counts(of, System("s", {}, (), ()), 8.0)
    assert found["problems"] == ({} if said is None else {"a": f"{said}, scored as it is"})
    wrong = ("silent", "short", "clipped")
    assert {k: found[k] for k in wrong} == {k: int(k == kind) for k in wrong}
    assert (found["videos"], found["scored"]) == (3, 2)


def test_what_is_missing_broken_or_unknown_is_named() -> None:
    made = files(
        checks={"a": check(sound_channels=1), "c": check(sound_peak_db=-90.0, sound_seconds=1.0)},
        broken={"b": "/some/where/b.wav: cannot be read: it ends early"},
    )
    system = System("s", {"a": Path("a")}, ("d", "e"), tuple(f"x{i}" for i in range(60)))
    found = counts(inputs(made, names="abcde"), system, 8.0)
    numbers = ("videos", "scored", "missing", "broken", "unknown_files")
    assert [found[k] for k in numbers] == [5, 2, 2, 1, 60]
    assert found["problems"] == {
        "b": "broken: cannot be read: it ends early",
        "c": "silent, scored as it is; short (1.00 s), scored as it is",
        "d": "missing: there is no file of this name",
        "e": "missing: there is no file of this name",
    }
    assert found["unknown"] == [f"x{i}" for i in range(50)]
    assert found["formats"] == {"48 kHz mono": 1, "48 kHz stereo": 1}

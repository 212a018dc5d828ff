"""The shipped bridge learns from 24 clips of one's own: python examples/fine_tune.py HOME.

They are seen from 41 m away: each sound comes 120 ms after its picture, as in no clip that the
bridge knows. 18 train it, 6 say when to stop, and figures are of 24 others.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import foley
from pipeline.procedural import SAMPLE_RATE, render_audio, render_frames, sample_clip, write_media

DELAY = 0.12  # seconds
BATCH = ("train.batch_size=6", "train.validate_every=25")


def write_clips(folder: Path, counts: dict[str, int]) -> None:
    """So many clips of each split, and a clips.jsonl that says what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = [split for split, count in counts.items() for _ in range(count)]
    rows: list[dict[str, object]] = []
    for seed, split in enumerate(splits, 810_000_000):  # beyond those of all training
        clip, file = sample_clip(seed), f"{seed}.mp4"
        sound, silence = render_audio(clip), np.zeros(round(DELAY * SAMPLE_RATE), np.float32)
        late = np.concatenate([silence, sound])[: len(sound)]
        write_media(folder / file, render_frames(clip), late)
        truth = clip.truth() | {"impacts": [round(at + DELAY, 3) for at in clip.impacts]}
        rows.append({"file": file, "prompt": clip.prompt, "split": split, "truth": truth})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    """Print figures of the shipped bridge, of two that go on from it, and of one begun anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--steps", type=int, default=300)  # at most
    parser.add_argument("--clips", type=int, nargs=3, default=(18, 6, 24))
    home = (given := parser.parse_args()).home
    write_clips(home / "clips", dict(zip(("train", "val", "test"), given.clips, strict=True)))
    foley.curate(home / "clips", home=home)
    lower = ("train.learning_rate=4e-4", "train.warmup_steps=10", "train.patience=3")
    early = foley.train(home=home, parent="shipped", steps=given.steps, settings=BATCH + lower)
    steps = early.record["ended_after"]
    print(f"best after step {early.record['steps']}, ended after step {steps}")
    tuned = foley.train(home=home, parent="shipped", steps=steps, settings=BATCH)
    anew = foley.train(home=home, steps=steps, settings=BATCH)
    names = {"shipped": "shipped", early.id: "fine-tuned at a lower rate, stopped early"}
    names |= {tuned.id: "fine-tuned", anew.id: "from nothing"}
    for checkpoint, name in names.items():
        if held_out := foley.evaluate(home=home, checkpoint=checkpoint).held_out:
            sync, loss = held_out.figures["sync"]["true"], held_out.figures["v_loss"]["true"]
            print(f"{name}: onset F1 at 60 ms {sync['f1_60ms']:.3f}, v-loss {loss:.4f}")


if __name__ == "__main__":
    main()

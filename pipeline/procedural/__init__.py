"""Procedural clips: toy video with sound whose impact times, material and prompt are known.

Four materials x three scenes, 64 x 64 at 16 fps and 16 kHz mono by default. A clip is a few numbers drawn from a seed;
sound and picture are rendered from them apart, so that a model of sound alone never pays for frames. The picture tells
*when* (by its motion alone) and never *what*: the material is in the prompt and the timbre.
"""

from pipeline.procedural.audio import SAMPLE_RATE, material_of, material_scores, render_audio
from pipeline.procedural.clip import (
    MATERIALS,
    SCENES,
    WORDINGS,
    ProceduralClip,
    prompt_for,
    sample_clip,
    swap_material,
)
from pipeline.procedural.corpus import (
    BAD_KINDS,
    FLAWS,
    LEDGER,
    MISDUBBED,
    CorpusClip,
    plan_corpus,
    read_ledger,
    write_corpus,
    write_corpus_clip,
    write_ledger,
)
from pipeline.procedural.frames import FPS, SIZE, render_frames
from pipeline.procedural.writing import write_clip, write_media

__all__ = [
    "BAD_KINDS",
    "FLAWS",
    "FPS",
    "LEDGER",
    "MATERIALS",
    "MISDUBBED",
    "SAMPLE_RATE",
    "SCENES",
    "SIZE",
    "WORDINGS",
    "CorpusClip",
    "ProceduralClip",
    "material_of",
    "material_scores",
    "plan_corpus",
    "prompt_for",
    "read_ledger",
    "render_audio",
    "render_frames",
    "sample_clip",
    "swap_material",
    "write_clip",
    "write_corpus",
    "write_corpus_clip",
    "write_ledger",
    "write_media",
]

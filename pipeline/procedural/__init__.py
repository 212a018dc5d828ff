"""Procedural clips: toy video with sound whose impact times, material and prompt are known.

Four materials x three scenes, 64 x 64 at 16 fps and 16 kHz mono. A clip is a few numbers drawn from
a seed; sound and picture are rendered from them apart, so that a model of sound alone never pays
for frames. The picture tells *when* (by its motion alone) and never *what*: the material is in the
prompt and the timbre.
"""

# pyright: reportUnusedImport=false
from pipeline.procedural.audio import SAMPLE_RATE, material_of, render_audio
from pipeline.procedural.clip import MATERIALS, ProceduralClip, sample_clip
from pipeline.procedural.corpus import (
    BAD_KINDS,
    FLAWS,
    MISDUBBED,
    Corpus,
    read_ledger,
    write_corpus,
)
from pipeline.procedural.frames import FPS, SIZE, render_frames
from pipeline.procedural.overlaying import OVERLAYS
from pipeline.procedural.writing import write_clip, write_media

"""Worlds: things of a material and size that fall, hit, roll and slide, as MuJoCo simulates them.

Unlike procedural clips, the picture shows what a thing is made of, hits are of unequal force and of
a place, and some things move without a sound. Needs the extra `world`.
"""

# pyright: reportUnusedImport=false
from pipeline.world.clip import WorldClip
from pipeline.world.corpus import WorldCorpus, counterfactual
from pipeline.world.scene import LEVELS, World, sample_world

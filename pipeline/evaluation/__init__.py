"""Scores any system (a folder of sounds named as the videos are) on any evaluation set, and writes Table 2."""

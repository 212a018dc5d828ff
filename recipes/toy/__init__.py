"""The toy preset's weights, policy and model card, made from procedural clips.

May import pipeline and model.
"""

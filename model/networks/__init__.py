"""Networks that score or describe sound and pictures, one file each.

May import presets and weights.
"""

"""Training the bridge: one step, validation, divergence.

May import sampling and the model itself.
"""

"""Torch: encoders, the frozen backbone, the bridge, training, sampling and metrics."""

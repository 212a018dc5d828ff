"""Torch: encoders, backbone, bridge, training, sampling, metrics.

Imports no other room but the errors of the warehouse.
"""

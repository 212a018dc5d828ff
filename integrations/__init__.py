"""Nodes of other programs that stand on foley-control."""

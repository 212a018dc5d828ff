"""Metrics on features and onsets. Imports names of arrays alone."""

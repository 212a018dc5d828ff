"""Metrics on features and onsets. Imports nothing of ours."""

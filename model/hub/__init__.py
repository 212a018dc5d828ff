"""Fetching published weights, and checking that they fit. Above networks and weights."""

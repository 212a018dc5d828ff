"""Sound under the conditions that are compared, metrics, tables and pages.

May import generation, training and curation.
"""

"""Training on a dataset's cached features, in one process or several.

May import curation, features and media.
"""

"""Sources, the stages in order, policies, and the page of a curation.

May import scoring and features.
"""

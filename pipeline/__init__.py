"""A clip's way, one room a step:

generation, evaluation -> training, curation -> scoring, features -> stages -> media, report,
procedural.
"""

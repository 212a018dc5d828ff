"""Sound for a person's videos: requests, the generator, files with provenance.

May import stages, media and model.
"""

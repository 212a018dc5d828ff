"""Which rows of commits count, and what is left to do. Imports commits alone."""

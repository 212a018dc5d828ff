"""The networks whose features and classes the metrics compare.

What hears, what watches, and what does both.
"""

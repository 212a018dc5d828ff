"""The networks whose features and classes the metrics compare: what hears, what watches, and what does both."""

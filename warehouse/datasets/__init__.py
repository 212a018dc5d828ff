"""Dataset versions and feature sets. May import rows."""

"""Reading and checking files of weights. May import presets."""

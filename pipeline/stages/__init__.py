"""What a stage is, and the engine that runs one batch of it. May import media."""

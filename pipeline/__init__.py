"""What happens to clips: one file a stage, each a batch of clips in, a table out."""

"""What training reads of a clip, one file a feature. May import stages and media."""

"""Facts and scores of a clip, one file a stage. May import stages and media."""

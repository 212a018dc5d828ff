"""The face: the public API and the `foley` command. May import every room."""

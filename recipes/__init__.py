"""How what is shipped was made. Run from the repository; not installed."""

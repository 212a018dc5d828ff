"""Fetching what clips are made of: addresses that break, archives not to be trusted, full disks."""

"""`foley studio`: a local page that makes sound for one's own footage. Needs the extra `studio`."""

"""Simulated worlds: motion against physics, sound against motion, and the corpus as a whole."""

"""What sounds for simulated worlds are worth, of which more is known than when things hit."""

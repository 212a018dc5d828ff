"""Presets: a folder of settings each, and what reads them. Imports only the warehouse's errors."""

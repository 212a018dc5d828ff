"""Copies of finished work in object stores. May import rows and datasets."""

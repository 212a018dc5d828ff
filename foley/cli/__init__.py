"""The `foley` command: options, which flow or function it calls, what it prints.

Imports neither torch nor Prefect at import.
"""

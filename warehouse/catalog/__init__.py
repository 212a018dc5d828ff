"""The DuckDB catalog: building, querying, status. May import rows and datasets."""

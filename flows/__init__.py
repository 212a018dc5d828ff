"""When things happen: Prefect flows and tasks, and the `foley` command."""

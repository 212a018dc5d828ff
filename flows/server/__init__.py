"""`foley up`, `down` and `deploy`: Prefect's server, its workers and deployments."""

"""What Prefect's UI and the terminal show: artifacts and progress."""

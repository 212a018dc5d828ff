"""How a flow runs: batches as tasks, runners, devices, records, signals."""

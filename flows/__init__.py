"""When things happen: Prefect flows.

The only room that imports prefect; may import pipeline, model and warehouse.
"""

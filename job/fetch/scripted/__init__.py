"""Datasets of the Hub that are a loading script: run once in a confined process, and kept as Parquet files."""

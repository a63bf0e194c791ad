"""Versions and runs: manifests and run journals are the record, DuckDB tables are made from them."""

"""A table in a DuckDB file, with the position in the same transaction."""

from penstock.sink.duckdb.config import DuckDBSink, duckdb_table

__all__ = ["DuckDBSink", "duckdb_table"]

"""Where results go: one contract, many drivers; the drivers themselves load when a sink is opened."""

from penstock.sink.api import Claim, Roll, Sink, Staged
from penstock.sink.duckdb.config import DuckDBSink, duckdb_table
from penstock.sink.parquet.config import ParquetSink

__all__ = ["Claim", "DuckDBSink", "ParquetSink", "Roll", "Sink", "Staged", "duckdb_table"]

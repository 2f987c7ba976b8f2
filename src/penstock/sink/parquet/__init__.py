"""A directory of Parquet files whose commit is a manifest per partition."""

from penstock.sink.parquet.config import ParquetSink, parquet

__all__ = ["ParquetSink", "parquet"]

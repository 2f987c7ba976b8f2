"""The package's face: its version, and the exported names, each loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers see; at run time each name loads when it is asked for
    from penstock.app.aclient import AsyncClient as AsyncClient
    from penstock.app.app import App as App
    from penstock.app.client import Client as Client
    from penstock.app.outcome import Acked as Acked
    from penstock.app.outcome import Rejected as Rejected
    from penstock.app.outcome import Unknown as Unknown
    from penstock.delivery.lot import OnFailure as OnFailure
    from penstock.delivery.retry import Retry as Retry
    from penstock.engine.context import Context as Context
    from penstock.errors import PenstockError as PenstockError
    from penstock.errors import Reject as Reject
    from penstock.event.envelope import NewEvent as NewEvent
    from penstock.event.envelope import RecordedEvent as RecordedEvent
    from penstock.flow.aggregates import count as count
    from penstock.flow.aggregates import max_ as max_
    from penstock.flow.aggregates import mean as mean
    from penstock.flow.aggregates import min_ as min_
    from penstock.flow.aggregates import sum_ as sum_
    from penstock.sink.api import Roll as Roll
    from penstock.sink.duckdb import duckdb_table as duckdb_table
    from penstock.sink.parquet import parquet as parquet
    from penstock.source.files import Csv as Csv
    from penstock.source.files import Gzip as Gzip
    from penstock.source.files import files as files

__all__ = [
    "Acked",
    "App",
    "AsyncClient",
    "Client",
    "Context",
    "Csv",
    "Gzip",
    "NewEvent",
    "OnFailure",
    "PenstockError",
    "RecordedEvent",
    "Reject",
    "Rejected",
    "Retry",
    "Roll",
    "Unknown",
    "count",
    "duckdb_table",
    "files",
    "max_",
    "mean",
    "min_",
    "parquet",
    "sum_",
]

# Exported name -> module that defines it. Loading lazily keeps `import penstock` free of the columnar libraries.
EXPORTS: dict[str, str] = {
    "Acked": "penstock.app.outcome",
    "App": "penstock.app.app",
    "AsyncClient": "penstock.app.aclient",
    "Client": "penstock.app.client",
    "Context": "penstock.engine.context",
    "Csv": "penstock.source.files",
    "Gzip": "penstock.source.files",
    "NewEvent": "penstock.event.envelope",
    "PenstockError": "penstock.errors",
    "RecordedEvent": "penstock.event.envelope",
    "Reject": "penstock.errors",
    "Rejected": "penstock.app.outcome",
    "OnFailure": "penstock.delivery.lot",
    "Retry": "penstock.delivery.retry",
    "Roll": "penstock.sink.api",
    "Unknown": "penstock.app.outcome",
    "count": "penstock.flow.aggregates",
    "duckdb_table": "penstock.sink.duckdb",
    "files": "penstock.source.files",
    "max_": "penstock.flow.aggregates",
    "mean": "penstock.flow.aggregates",
    "min_": "penstock.flow.aggregates",
    "parquet": "penstock.sink.parquet",
    "sum_": "penstock.flow.aggregates",
}


def __getattr__(name: str) -> object:
    """Load the module of an exported name; the version comes from the installed metadata.

    Raises:
        AttributeError: `name` is not exported.
    """
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - a tenth of the command line's start

        return version("penstock")
    module = EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}; it exports {', '.join(sorted(EXPORTS))}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*EXPORTS, "__version__"])

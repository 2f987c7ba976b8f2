"""The real flights, loaded once, and the oracle over the same files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from penstock.cli.demo.data import DemoData, data_directory, flights_events
from penstock.errors import ConfigError
from tests.oracle import flights


@pytest.fixture(scope="session")
def data_dir() -> Path:
    try:
        return data_directory()
    except ConfigError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def demo(data_dir: Path) -> DemoData:
    return flights_events(data_dir)


@pytest.fixture(scope="session")
def oracle(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = flights.opened(data_dir, tmp_path_factory.mktemp("flights"))
    yield connection
    connection.close()

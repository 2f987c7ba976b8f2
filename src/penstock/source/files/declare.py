"""What a user writes: `files("data/*.ndjson")`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from penstock.errors import ConfigError
from penstock.source.api import Source
from penstock.source.files.config import CSV_DEFAULT, GZIP_DEFAULT, Compression, Csv, FilesConfig, Format, Gzip
from penstock.source.files.driver import FileSource


class Files(msgspec.Struct, frozen=True):
    """Files as a source of events. See `files`."""

    config: FilesConfig

    def open_source(self, base: Path, name: str, *, event_bytes_max: int) -> Source:
        """See `SourceSpec`. Nothing is touched before the source is opened."""
        return FileSource(self.config, base, name, event_bytes_max=event_bytes_max)


def files(
    pattern: str | os.PathLike[str],
    *,
    format: Format | None = None,
    compression: Compression | None = None,
    follow: bool = False,
    csv: Csv = CSV_DEFAULT,
    gzip: Gzip = GZIP_DEFAULT,
) -> Files:
    """Events from all files that match `pattern`, in the order of their names.

    NDJSON (``.ndjson .jsonl .json``) has one JSON object a line; the bytes are stored as they stand, and lines that
    hold nothing are left out. CSV (``.csv``) has a header that names the fields of the topic's type. Either may be
    gzipped (``.gz``). What is no event of the type goes to the source's dead letters, with file, line and reason.

    A file is known by its name, and a file that was renamed by its inode and content. It may grow, and what was added
    is read by the next run; a file that shrank, was replaced or vanished before its end stops the source. Without
    `follow` a last line without a newline counts as a line: should it be continued later, the source stops. With
    `follow` only lines that end in a newline are taken, and the source waits for more lines and files; gzip files must
    then appear complete (rename them into place).

    Delivery guarantee: effectively-once; the position is stored with the events, in one transaction. Order per file.

    Args:
        pattern: a path with ``* ? [] **``; relative to the program's directory, not to the current one.
        format: ``ndjson`` or ``csv``; by each file's suffix by default.
        compression: ``gzip`` or ``none``; by each file's suffix by default.
        follow: wait for more instead of ending.
        csv: how CSV files are written.
        gzip: limits for what comes out of a gzip file.

    Raises:
        ConfigError: an option has a value that it cannot have.
    """
    for option, given, kind, example in (
        ("pattern", pattern, (str, os.PathLike), "a path such as 'data/*.ndjson'"),
        ("csv", csv, Csv, "Csv(…), such as Csv(delimiter=';')"),
        ("gzip", gzip, Gzip, "Gzip(…), such as Gzip(ratio_max=1000)"),
        ("csv.delimiter", getattr(csv, "delimiter", ""), str, "one character such as ',' or ';'"),
        ("csv.null_values", getattr(csv, "null_values", ()), (tuple, list), "a tuple of texts such as ('', 'NA')"),
        ("csv.names", getattr(csv, "names", ()), (tuple, list), "the columns in order, such as ('id', 'name')"),
        ("csv.rename", getattr(csv, "rename", {}), Mapping, "column to field, such as {'Customer ID': 'id'}"),
        ("gzip.bytes_max", getattr(gzip, "bytes_max", 0), int, "a whole number of bytes"),
        ("gzip.ratio_max", getattr(gzip, "ratio_max", 0), (int, float), "a number such as 1000"),
    ):
        if not isinstance(given, kind):
            raise ConfigError(f"{given!r}; expected {example}", path=f"files.{option}")
    config = FilesConfig(os.fspath(pattern), format, compression, follow, csv, gzip)
    if not config.pattern:
        raise ConfigError("the pattern is empty; expected a path such as 'data/*.ndjson'", path="files.pattern")
    for option, value, known in (
        ("format", format, ("ndjson", "csv")),
        ("compression", compression, ("gzip", "none")),
        ("csv.unknown", csv.unknown, ("refuse", "ignore")),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{value!r}; expected one of {', '.join(known)}", path=f"files.{option}")
    if len(csv.delimiter) != 1 or csv.delimiter in '"\r\n' or not csv.delimiter.isascii():
        raise ConfigError(f"{csv.delimiter!r}; expected one character such as ',' or ';'", path="files.csv.delimiter")
    if gzip.bytes_max < 1 or gzip.ratio_max < 1:
        raise ConfigError(f"{gzip}; expected limits above zero", path="files.gzip")
    return Files(config)

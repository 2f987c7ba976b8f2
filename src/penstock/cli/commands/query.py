"""`penstock query`: SQL over topics as tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.cli.options import Log, json_option, log_option, wants_json, with_log

if TYPE_CHECKING:
    from penstock.cli.writing import Writer
    from penstock.observe.query import Answer

LIMIT = 40
_SUFFIXES = (".parquet", ".csv", ".ndjson", ".jsonl")


@click.command("query", short_help="Run SQL over topics as tables.")
@click.argument("sql")
@log_option()
@json_option("Print one JSON object a row.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header.")
@click.option("--output", "-o", "target", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write to FILE instead: .parquet, .csv, .ndjson.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=None, metavar="N",
              help=f"Rows at most: {LIMIT} by default in a table, all with --json, --csv and --output.")  # fmt: skip
def command(*, sql: str, as_csv: bool, target: Path | None, limit: int | None) -> None:
    """Run SQL over the topics of a log; "-" reads it from stdin.

    Each topic is a table: the fields of its type, then _partition, _offset, _recorded_time, _key, _id and _headers.
    Dead letters are the table GROUP.dead. The dialect is DuckDB's; read_parquet('lake/**/*.parquet') works too.

    \b
    penstock query "select carrier, count(*) from departures group by all order by 2 desc"
    penstock query --json "from departures where _offset >= 1000" | head
    """  # noqa: D301 - click looks for the character itself
    as_json = wants_json()
    if as_json + as_csv + (target is not None) > 1:
        msg = "--json, --csv and --output exclude each other; choose one"
        raise click.UsageError(msg)
    if target is not None and target.suffix not in _SUFFIXES:
        msg = f"--output {target.name}: expected a name that ends in one of {', '.join(_SUFFIXES)}"
        raise click.UsageError(msg)
    text = sys.stdin.read() if sql == "-" else sql
    if not text.strip():
        msg = 'no SQL; give a query, such as "select * from departures limit 10"'
        raise click.UsageError(msg)

    async def work(opened: Log) -> None:
        from penstock.observe.query import Tables  # noqa: PLC0415 - loads the columnar libraries

        tables = Tables(opened.channel, opened.channel.topics(), opened.system)
        try:
            answer = await tables.query(text)
            if target is None and not as_json and not as_csv:
                await _show(answer, limit or LIMIT, asked=limit is not None)
            else:
                await _write_named(answer, _writer(target, as_csv=as_csv), limit, target)
        finally:
            await tables.close()

    with_log(work)


async def _show(answer: Answer, limit: int, *, asked: bool) -> None:
    from penstock.cli.cells import values  # noqa: PLC0415 - loads the columnar libraries

    rows: list[list[Any]] = []
    more = False
    while not more and (batch := await answer.next()) is not None:
        rows.extend(map(list, zip(*map(values, batch.columns), strict=True)))
        more = len(rows) > limit
    if not answer.schema.names:
        output.note("done")
        return
    output.table(answer.schema.names, rows[:limit])
    if more and not asked:
        output.note(f"the first {limit} rows; --limit N shows more, --json, --csv or --output FILE all of them")


async def _write_named(answer: Answer, writer: Writer, limit: int | None, target: Path | None) -> None:
    """As `_write`; an error of the system names the file that was asked for."""
    try:
        await _write(answer, writer, limit, target)
    except OSError as exc:
        if target is None:
            raise
        raise OSError(exc.errno, exc.strerror or str(exc), str(target)) from exc


async def _write(answer: Answer, writer: Writer, limit: int | None, target: Path | None) -> None:
    count = 0
    with writer:
        writer.begin(answer.schema)
        while (limit is None or count < limit) and (batch := await answer.next()) is not None:
            taken = batch if limit is None else batch.slice(0, limit - count)
            writer.write(taken)
            count += taken.num_rows
    if target is not None:
        output.note(f"{count:,} rows in {target}")


def _writer(target: Path | None, *, as_csv: bool) -> Writer:
    from penstock.cli import writing  # noqa: PLC0415 - loads the columnar libraries

    if target is None:
        return writing.CsvLines() if as_csv else writing.JsonLines()
    return writing.file_writer(target)

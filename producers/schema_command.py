"""`fraudstream schema infer` and `fraudstream schema check`.

Exit 0: the file can be replayed by the schema; 1: a column needs something first; 2: wrong use.
"""

from pathlib import Path
from typing import Any

import click
import msgspec
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import DataError
from pipeline.schema import Schema, load_schema, parse_schema
from producers.commands import progress_bar
from producers.datasets import count_rows
from producers.schema_check import Checking, FileCheck, Part, check_file, parts_of, sample
from producers.schema_infer import Need, Proposal, infer
from producers.schema_text import needs_text, rendered

ROWS_LOOKED_AT = 200_000

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def schema() -> None:
    """Propose a schema for a file, or see whether a file fits one."""


@schema.command(name="infer")
@click.argument("file", type=_FILE)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="TOML file to write."
)
@click.option("--name", help="Name of the schema [default: the file's].")
@click.option(
    "--rows", type=click.IntRange(min=0), default=ROWS_LOOKED_AT, show_default=True,
    help="Look at so many rows from the first on; 0: at all.",
)  # fmt: skip
def infer_command(file: Path, output: Path | None, name: str | None, rows: int) -> None:
    """Propose a schema for FILE (CSV or Parquet), with the evidence as comments.

    The TOML goes to stdout, or to --output. It can be loaded as it is; where the file itself must
    be changed before it can be replayed, each column that needs something is named, and the exit
    code is 1.
    """
    if output is not None and (output.exists() or output.suffix != ".toml"):
        said = "is there already" if output.exists() else "must end in .toml"
        raise click.UsageError(f"--output {output} {said}")
    total = count_rows(file)
    with progress_bar(min(total, rows) if total and rows else total or rows or None) as show:
        frame, is_whole = sample(file, rows, show)
    proposal = infer(frame, name=name or file.stem)
    first = "all" if is_whole else "the first"
    of = f" of {total:,}" if total and not is_whole else ""
    looked_at = f"{first} {len(frame):,}{of} rows were looked at"
    add_needs(proposal, frame, file)
    text = rendered(proposal, file=file.name, looked_at=looked_at)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)
    click.echo(f"{file.name}: {looked_at}", err=True)
    if proposal.needs:
        click.echo(needs_text(proposal.needs), err=True)
        click.get_current_context().exit(1)
    where = output or "FILE.toml"
    click.echo(f"next: fraudstream replay {file} --schema {where}", err=True)


def _write(output: Path, text: str) -> None:
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{output} cannot be written: {error.strerror}") from error


def add_needs(proposal: Proposal, frame: pd.DataFrame, file: Path) -> None:
    """Decode the rows as replay would, and add what does not fit where nothing said so."""
    text = rendered(proposal, file=file.name, looked_at="")
    result = _checked(file, parse_schema(text, place="proposed"), frame)
    known = {need.column for need in proposal.needs}
    for part in [*result.parts, result.disorder]:
        if part.bad and part.column not in known:
            first = part.first[0]
            said = f"row {first.row:,}: expected {first.expected}, got {first.got}"
            proposal.needs.append(Need(part.column, f"{part.bad:,} rows do not fit; {said}"))


def _checked(file: Path, found: Schema, frame: pd.DataFrame) -> FileCheck:
    parts = parts_of(found)
    for part in parts:
        part.is_missing = part.column not in frame.columns
    checking = Checking(file, parts)
    checking.add(frame)
    return checking.done(found, [])


@schema.command(name="check")
@click.argument("given", metavar="SCHEMA")
@click.argument("file", type=_FILE)
@click.option("--no-labels", is_flag=True, help="The file has no labels.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check_command(given: str, file: Path, no_labels: bool, as_json: bool) -> None:
    """Say what of FILE fits SCHEMA (a name or a .toml file), and which rows do not.

    Every row is looked at. Exit code 1 where replay could not read the file.
    """
    wanted = load_schema(given)
    with progress_bar(count_rows(file)) as show:
        found = check_file(file, wanted, labels=not no_labels, show=show)
    if as_json:
        click.echo(msgspec.json.encode(_answer(found)).decode())
    else:
        _show(found)
    if not found.fits:
        click.get_current_context().exit(1)


def _answer(found: FileCheck) -> dict[str, Any]:
    return {
        "file": found.file,
        "schema": found.schema,
        "fits": found.fits,
        "rows": found.rows,
        "repeated_ids": found.repeated_ids,
        "columns": [_part(part) for part in [*found.parts, found.disorder]],
        "ignored": found.ignored,
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "field": part.column,
        "role": part.role,
        "fits": part.fits,
        "found": not part.is_missing,
        "type": part.type,
        "rows": part.rows,
        "empty": part.empty,
        "bad": part.bad,
        "share_decoded": part.share,
        "first_bad": part.first,
    }


def _show(found: FileCheck) -> None:
    table = Table("column", "is", "found", "empty", "decode", "", box=None)
    for part in found.parts:
        state = "absent" if part.is_missing else part.type
        verdict = "fits" if part.fits else "missing" if part.is_missing else "does not fit"
        share = "" if part.is_missing else _percent(part)
        table.add_row(escape(part.column), part.role, state, f"{part.empty:,}", share, verdict)
    Console().print(table)
    for part in [*found.parts, found.disorder]:
        for bad in part.first:
            line = f" (line {bad.line:,})" if bad.line else ""
            click.echo(
                f"row {bad.row:,}{line}, column {part.column!r}: "
                f"expected {bad.expected}, got {bad.got}"
            )
        if part.bad > len(part.first):
            click.echo(f"column {part.column!r}: {part.bad:,} rows like these in all")
    if found.repeated_ids:
        click.echo(f"{found.repeated_ids:,} rows repeat an id: each id is decided once")
    if found.ignored:
        click.echo(f"ignored: {', '.join(found.ignored)}")
    verdict = "fits" if found.fits else "does not fit" if found.rows else "has no rows"
    click.echo(f"{found.file} {verdict}: {found.rows:,} rows, schema {found.schema}")


def _percent(part: Part) -> str:
    # Never "100 %" where a row does not decode.
    return "all" if not part.bad else f"{min(part.share, 0.9999):.2%}"

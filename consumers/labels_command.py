"""`fraudstream labels FILE`: a chargeback file becomes labels.

Exit 0: every row is matched or says nothing; 1: some rows need a person; 2: wrong use, such as a
mapping that does not fit, or card numbers in the file.
"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec

from consumers.case_decisions import known_decisions, of_file, of_topic
from consumers.case_mapping import (
    Mapping,
    Options,
    check_mapping,
    guessed,
    load_mapping,
    mapping_text,
)
from consumers.case_matching import Matched, match_cases
from consumers.case_publisher import publish_labels
from consumers.case_rows import Case, CaseReader, Ignored, Left, read_rows
from consumers.reason_codes import ReasonCodes
from pipeline.errors import DataError
from pipeline.events import Label
from pipeline.feedback_encoding import encode_label
from pipeline.schema import Schema, load_schema
from pipeline.settings import Settings
from pipeline.signing import LabelSigner
from producers.commands import progress_bar
from producers.publisher import wait_for_any
from stack.command_settings import current_settings
from stack.connections import kafka_servers_of

LEFT_SHOWN = 20

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path)


class _WrongUse(click.ClickException):
    exit_code = 2


@click.command()
@click.argument("file", type=_FILE)
@click.option("--mapping", "mapping_file", type=_FILE, help="TOML file that names the columns.")
@click.option("--time-zone", help="Of times without an offset, where no mapping says it.")
@click.option("--decisions", type=_FILE, help="Match with this file instead of the topic.")
@click.option("--report", type=_NEW_FILE, help="CSV file to write: rows that need a person.")
@click.option("--dry-run", is_flag=True, help="Publish nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def labels(
    file: Path,
    mapping_file: Path | None,
    time_zone: str | None,
    decisions: Path | None,
    report: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Match the rows of a chargeback file (CSV or Parquet) to decisions, and publish their labels.

    Without --mapping the columns are guessed where their names are obvious, and the guess is shown.
    Rows that fit no decision, or several, are reported and left for a person. The same file twice
    changes nothing.
    """
    settings = current_settings()
    schema = load_schema(settings.schema)
    signer = LabelSigner.of(settings)
    if not dry_run:
        signer.check("chargeback", "dispute_won")
    try:
        mapping, cases, left, ignored = _read(file, mapping_file, time_zone, schema)
        source = of_file(decisions, schema) if decisions else of_topic(_kafka(settings))
        matched = _matched(source, cases, mapping, schema)
    except DataError as error:
        raise _WrongUse(str(error)) from error
    matched.left = sorted([*matched.left, *left], key=lambda item: item.line)
    if report is not None:
        _write_report(report, matched.left)
    if not dry_run and matched.labels:
        with progress_bar(len(matched.labels)) as show:
            publish_labels(matched.labels, schema, _kafka(settings), signer, show)
    answer = _answer(matched, len(cases) + len(left) + ignored, ignored, dry_run=dry_run)
    if as_json:
        said = [json.loads(encode_label(label, schema)) for label in matched.labels]
        click.echo(msgspec.json.encode(answer | {"labels": said}).decode())
    else:
        _show(answer, matched.left)
    if matched.left:
        click.get_current_context().exit(1)


def _kafka(settings: Settings) -> str:
    servers = kafka_servers_of(settings)
    wait_for_any(servers)
    return servers


def _read(
    file: Path, mapping_file: Path | None, time_zone: str | None, schema: Schema
) -> tuple[Mapping, list[Case], list[Left], int]:
    """Read the file by its mapping; gives its cases, what is left for a person, and the ignored."""
    mapping = None if mapping_file is None else load_mapping(mapping_file)
    names, rows = read_rows(file, mapping.options.delimiter if mapping else ",")
    if mapping is None:
        mapping = guessed(names)
        click.echo(f"columns as guessed:\n{mapping_text(mapping)}", err=True)
    if time_zone is not None:
        options = msgspec.structs.asdict(mapping.options) | {"time_zone": time_zone}
        mapping = msgspec.structs.replace(mapping, options=Options(**options))
    check_mapping(mapping, names, schema)
    cases: list[Case] = []
    left: list[Left] = []
    ignored = 0
    for item in CaseReader(mapping, schema, ReasonCodes.shipped()).cases(rows):
        if isinstance(item, Case):
            cases.append(item)
        elif isinstance(item, Left):
            left.append(item)
        else:
            assert isinstance(item, Ignored)
            ignored += 1
    return mapping, cases, left, ignored


def _matched(source: Any, cases: Sequence[Case], mapping: Mapping, schema: Schema) -> Matched:
    total, batches = source
    key_entity = schema.entities[0].name
    with progress_bar(total) as show:
        token_entity = mapping.options.token_entity or key_entity
        known = known_decisions(batches, cases, token_entity, show)
    days = mapping.options.window_days
    return match_cases(cases, known, key_entity=key_entity, window_days=days)


def _answer(matched: Matched, rows: int, ignored: int, *, dry_run: bool) -> dict[str, Any]:
    how = Counter(match.how for match in matched.matches)
    said = Counter(map(_kind, matched.labels))
    return {
        "rows": rows,
        "matched": {"reference": how["reference"], "token": how["token"]},
        "repeated": matched.repeated,
        "ignored": ignored,
        "verdicts": {name: said[name] for name in ("fraud", "genuine", "dispute_won")},
        "published": 0 if dry_run else len(matched.labels),
        "left": [asdict(item) for item in matched.left],
    }


def _kind(label: Label) -> str:
    if label.source == "dispute_won":
        return "dispute_won"
    return "fraud" if label.is_fraud else "genuine"


def _show(answer: dict[str, Any], left: Sequence[Left]) -> None:
    for item in left[:LEFT_SHOWN]:
        ids = f" ({', '.join(item.candidates)})" if item.candidates else ""
        click.echo(f"line {item.line:,}: {item.kind}: {item.why}{ids}")
    if len(left) > LEFT_SHOWN:
        click.echo(f"and {len(left) - LEFT_SHOWN:,} more: all of them are in --report FILE")
    how, said = answer["matched"], answer["verdicts"]
    click.echo(
        f"rows       {answer['rows']:,}: matched by reference {how['reference']:,}, by token "
        f"{how['token']:,}, repeated {answer['repeated']:,}, ignored {answer['ignored']:,}, "
        f"for a person {len(left):,}"
    )
    click.echo(
        f"labels     fraud {said['fraud']:,}, genuine {said['genuine']:,}, "
        f"dispute won {said['dispute_won']:,}"
    )
    click.echo(f"published  {answer['published']:,}")


def _write_report(path: Path, left: Sequence[Left]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("line", "kind", "why", "candidates"))
            for item in left:
                writer.writerow((item.line, item.kind, item.why, " ".join(item.candidates)))
    except OSError as error:
        raise _WrongUse(f"--report {path} cannot be written: {error.strerror}") from error

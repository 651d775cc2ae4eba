"""The part of `fraudstream check` that reads the last transactions as the worker would.

What is said of a record names its place and field, and never a value.
"""

from collections.abc import Iterator
from typing import Any

from consumers.log_reader import LogReader
from pipeline.admission import Admission
from pipeline.errors import DataError
from pipeline.events import Problem
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.topics import TRANSACTIONS
from pipeline.transactions import TransactionDecoder
from stack.findings import Finding, ok, problem, warning
from stack.kafka_address import Kafka

RECORDS_MAX = 1_000
# Kinds of problems that are named, the most frequent first.
KINDS_SHOWN_MAX = 5


def check_records(kafka: Kafka, settings: Settings, schema: Schema) -> Iterator[Finding]:
    """Decode and admit the last records of `transactions`."""
    about = f"records of {kafka.topic(TRANSACTIONS)}"
    try:
        refused, count = _read(kafka, settings, schema)
    except DataError:
        # There is no such topic, which was said before.
        return
    if not count:
        yield warning(about, f"there are none yet: what fits schema {schema.name} is not known")
        return
    failed = sum(number for number, _ in refused.values())
    if not failed:
        yield ok(about, f"all of the last {count:,} fit schema {schema.name}")
        return
    yield problem(
        about,
        f"{failed:,} of the last {count:,} do not fit schema {schema.name}, and would be dead "
        "letters: mend the schema or the producer",
    )
    by_number = sorted(refused.items(), key=lambda item: -item[1][0])
    for text, (number, place) in by_number[:KINDS_SHOWN_MAX]:
        yield problem(about, f"{number:,}: {text} (as at {place})")


def _read(
    kafka: Kafka, settings: Settings, schema: Schema
) -> tuple[dict[str, tuple[int, str]], int]:
    """Give how many were refused for each problem, with a first place; and how many were read."""
    decoder, refused, count = TransactionDecoder(schema), dict[str, tuple[int, str]](), 0
    with LogReader(kafka, TRANSACTIONS) as reader:
        reader.seek_back(max(1, RECORDS_MAX // len(reader.ends)))
        for records in reader.chunks():
            count += len(records)
            for record, found in _problems(records, decoder, schema, settings):
                place = f"{record.topic}[{record.partition}] offset {record.offset}"
                number, first = refused.get(str(found), (0, place))
                refused[str(found)] = (number + 1, first)
    return refused, count


def _problems(
    records: list[Any], decoder: TransactionDecoder, schema: Schema, settings: Settings
) -> Iterator[tuple[Any, Problem]]:
    batch, rows, rejected = decoder.decode([record.value for record in records])
    admission = Admission(schema, settings, records[0].partition)
    times, keys = [item.timestamp for item in records], [item.key for item in records]
    _, _, not_admitted = admission.admit(batch, rows, times, keys)
    for item in (*rejected, *not_admitted):
        yield records[item.row], item.problem

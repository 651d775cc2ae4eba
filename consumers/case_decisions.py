"""The decisions that a chargeback file may speak of: from the topic, or from a file.

Only those are kept whose id or token stands in the file, so that memory follows the file's size and
not the log's.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from consumers.case_matching import Decided, Known
from consumers.case_rows import Case
from consumers.log_reader import LogReader
from pipeline.errors import DataError
from pipeline.records import DecisionRecord, decode_decisions
from pipeline.schema import Schema
from pipeline.topics import DECISIONS

ROWS_AT_ONCE = 10_000
JSON_LINES = (".jsonl", ".json", ".ndjson")

Show = Callable[[int, str], None]
Counted = Iterator[tuple[int, Iterable[Decided]]]


def known_decisions(
    decisions: Counted, cases: Iterable[Case], token_entity: str, show: Show
) -> Known:
    """Keep the decisions that the cases may speak of."""
    references, tokens = set(), set()
    for case in cases:
        references.add(case.reference)
        tokens.add(case.token)
    tokens.discard("")
    known, count = Known(token_entity), 0
    for read, batch in decisions:
        for decided in batch:
            if decided.transaction_id in references or decided.keys.get(token_entity) in tokens:
                known.add(decided)
        count += read
        show(count, f"{count:,} decisions read")
    return known


def of_topic(servers: str) -> tuple[int, Counted]:
    """Give how many records the topic `decisions` holds, and its decisions."""
    reader = LogReader(servers, DECISIONS)
    ends, begins = reader.ends, reader.begins

    def batches() -> Counted:
        with closing(reader):
            for chunk in reader.chunks(ends):
                yield len(chunk), _records(record.value for record in chunk)

    return sum(ends[place] - begins[place] for place in ends), batches()


def of_file(path: Path, schema: Schema) -> tuple[int | None, Counted]:
    """Give the decisions of a file: JSON lines as on the topic, or what `replay` writes."""
    if path.suffix == ".parquet":
        return None, _of_parquet(path, schema)
    if path.suffix in JSON_LINES:
        return None, _of_lines(path)
    raise DataError(f"{path.name}: decisions must be .parquet or {', '.join(JSON_LINES)}")


def _of_lines(path: Path) -> Counted:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                found = list(_records([line]))
                if not found and line.strip():
                    raise DataError(f"{path.name}: line {number} is no decision")
                yield 1, found
    except OSError as error:
        raise DataError(f"{path.name}: {error.strerror}") from error


def _of_parquet(path: Path, schema: Schema) -> Counted:
    names = [item.name for item in schema.entities]
    columns = ["transaction_id", "event_time", "amount_minor", "currency"]
    columns += [f"{name}_id" for name in names]
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"{path.name}: no decisions of schema {schema.name!r}: column {missing[0]!r} "
                    "is missing (write it with `replay --decisions`)"
                )
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                rows = batch.set_column(
                    batch.schema.get_field_index("event_time"),
                    "event_time",
                    batch.column("event_time").cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()),
                ).to_pylist()
                yield len(rows), [_of_row(row, names) for row in rows]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path.name}: {str(error).splitlines()[0]}") from error


def _of_row(row: dict[str, Any], names: Iterable[str]) -> Decided:
    keys = {name: str(row[f"{name}_id"]) for name in names}
    amount, currency = row["amount_minor"], row["currency"]
    return Decided(row["transaction_id"], row["event_time"], keys, amount, currency)


def _records(values: Iterable[bytes | None]) -> Iterator[Decided]:
    return (_of_record(record) for record in decode_decisions(values) if record is not None)


def _of_record(record: DecisionRecord) -> Decided:
    return Decided(
        record.transaction_id, record.event_time, record.keys, record.amount, record.currency
    )

"""Decisions and labels of a comparison, from files.

Decisions are the Parquet file of `fraudstream replay --decisions`, or records of the topic, one
JSON object a line. Labels are a CSV or Parquet file with the event's id and the schema's label, or
records of `training` or `feedback`, one JSON object a line; where none are named, the truth that a
replay has written beside its decisions is taken.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.actions import ACTIONS
from pipeline.comparison.columns import ComparisonLog, Decided
from pipeline.comparison.reading import AMOUNT, amount_band, decided_of, take_labels
from pipeline.errors import DataError
from pipeline.incumbent import Incumbent
from pipeline.schema import Schema
from producers import columns
from producers.batch import LABEL_UNKNOWN
from producers.columns import Column
from producers.datasets import PARQUET, column_names, frames

JSON_LINES = ".jsonl"
CHUNK_LINES = 10_000
TRUTH, ID = "is_fraud", "transaction_id"
DECISION_COLUMNS = (ID, "event_time", "amount_minor", "currency", "score", "action")
INCUMBENT_COLUMNS = ("incumbent_score", "incumbent_action")

Show = Callable[[int], None]
"""Told how many decisions were read."""


def read_decision_file(
    log: ComparisonLog, path: Path, schema: Schema, segments: Sequence[str], *, truth: bool,
    show: Show,
) -> None:  # fmt: skip
    """Take the decisions of a file; with `truth` its column `is_fraud` gives the labels."""
    if path.suffix == JSON_LINES:
        count = 0
        for lines in _lines(path):
            log.decide(decided_of(lines, segments, schema.minor_digits))
            count += len(lines)
            show(count)
        return
    if path.suffix != PARQUET:
        raise DataError(f"{path.name}: decisions must be a {PARQUET} or {JSON_LINES} file")
    present = column_names(path)
    fields = _segment_columns(schema, segments)
    missing = [name for name in (*DECISION_COLUMNS, *fields.values()) if name not in present]
    if missing:
        raise DataError(
            f"{path.name}: column {missing[0]!r} is missing; expected the file of "
            "`fraudstream replay --decisions`"
        )
    beside = [name for name in (*INCUMBENT_COLUMNS, TRUTH) if name in present]
    count = 0
    for frame in frames(path, [*dict.fromkeys((*DECISION_COLUMNS, *fields.values(), *beside))]):
        known = frame["action"].isin(ACTIONS).to_numpy()
        column = Column(path.name, "action", count + 1, frame["action"])
        column.check(~known, f"one of {', '.join(ACTIONS)}")
        log.decide(_decided(frame, fields, segments, schema.minor_digits))
        if truth and TRUTH in frame:
            _take_labels(log, frame[ID].tolist(), _truth(frame[TRUTH]))
        count += len(frame)
        show(count)


def read_label_file(log: ComparisonLog, path: Path, schema: Schema) -> None:
    """Take the labels of a file; a row without a label says nothing."""
    if path.suffix == JSON_LINES:
        for lines in _lines(path):
            take_labels(log, lines)
        return
    present = column_names(path)
    key = next((name for name in (schema.event_id, ID) if name in present), None)
    label = next((name for name in (schema.label, TRUTH) if name and name in present), None)
    if key is None or label is None:
        missing = schema.event_id if key is None else schema.label or TRUTH
        raise DataError(
            f"{path.name}: column {missing!r} of labels is missing: the file has "
            f"{', '.join(present)}"
        )
    row = 1
    for frame in frames(path, [key, label]):
        if len(frame):
            ids = columns.ids(Column(path.name, key, row, frame[key]))
            _take_labels(log, ids, columns.labels(Column(path.name, label, row, frame[label])))
        row += len(frame)


def _take_labels(log: ComparisonLog, ids: Sequence[str], verdicts: Any) -> None:
    known = np.flatnonzero(verdicts != LABEL_UNKNOWN)
    told = [ids[row] for row in known.tolist()]
    log.label(told, verdicts[known], np.zeros(len(told), np.bool_))


def _truth(values: "pd.Series[Any]") -> Any:
    known = values.notna().to_numpy()
    found = np.full(len(values), LABEL_UNKNOWN, np.int8)
    found[known] = values[known].astype(bool)
    return found


def _segment_columns(schema: Schema, segments: Sequence[str]) -> dict[str, str]:
    entities = {entity.name for entity in schema.entities}
    return {name: f"{name}_id" if name in entities else name for name in segments if name != AMOUNT}


def _decided(
    frame: pd.DataFrame, fields: dict[str, str], segments: Sequence[str], digits: int
) -> Decided:
    amounts = frame["amount_minor"].tolist()
    values = {name: frame[column].tolist() for name, column in fields.items()}
    if AMOUNT in segments:
        values[AMOUNT] = [amount_band(minor, digits) for minor in amounts]
    return Decided(
        ids=frame[ID].tolist(),
        event_time_ms=columns.times(Column("decisions", "event_time", 1, frame["event_time"])),
        amount_minor=amounts,
        scores=frame["score"].tolist(),
        actions=frame["action"].tolist(),
        currencies=frame["currency"].tolist(),
        incumbents=_incumbents(frame),
        segments=values,
    )


def _incumbents(frame: pd.DataFrame) -> list[Incumbent | None]:
    score, action = (
        frame[name].astype(object).where(frame[name].notna(), None).tolist()
        if name in frame
        else [None] * len(frame)
        for name in INCUMBENT_COLUMNS
    )
    said = zip(score, action, strict=True)
    return [None if pair == (None, None) else Incumbent(*pair) for pair in said]


def _lines(path: Path) -> Iterator[list[bytes]]:
    try:
        with path.open("rb") as file:
            while lines := list(islice(file, CHUNK_LINES)):
                yield lines
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error

"""What a run left in its topics, read back as columns.

A run of millions leaves gigabytes. A record is decoded as far as it is asked for, becomes a row of
a few numbers, and is forgotten: a decision takes some 70 bytes here.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.progress import Report
from consumers.log_reader import LogReader
from pipeline.topics import DECISIONS, FEEDBACK, TRAINING

Ids = NDArray[np.bytes_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Decided:
    """The `decisions` topic, partition by partition, each in its order.

    Parameters
    ----------
    version
        The training offset that the deciding version had learned to.
    digest
        Differs between records that differ in any byte.
    scores
        By model; the champion is first.
    """

    transaction_id: Ids
    partition: Ints
    event_time_ms: Ints
    appended_ms: Ints
    version: Ints
    digest: Ints
    scores: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.transaction_id)


@dataclass(frozen=True, slots=True)
class Examples:
    """The `training` topic in its order; `scores` are those of the decision, by model."""

    label_id: Ids
    offset: Ints
    partition: Ints
    event_time_ms: Ints
    label_time_ms: Ints
    appended_ms: Ints
    is_fraud: NDArray[np.bool_]
    scores: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.label_id)

    def first_of_each(self) -> Ints:
        """Give the rows in which a label came for the first time."""
        return np.sort(np.unique(self.label_id, return_index=True)[1])


@dataclass(frozen=True, slots=True)
class Labels:
    """The `feedback` topic: which label came when."""

    label_id: Ids
    appended_ms: Ints


class _Decision(msgspec.Struct, frozen=True, gc=False):
    transaction_id: str
    event_time: int
    score: float
    model_version: str
    challengers: dict[str, float]


class _Example(msgspec.Struct, frozen=True, gc=False):
    label_id: str
    partition: int
    verdict: str
    event_time: int
    label_time: int
    score: float
    model_version: str
    challengers: dict[str, float]


class _Label(msgspec.Struct, frozen=True, gc=False):
    label_id: str


_DECISIONS = msgspec.json.Decoder(_Decision)
_EXAMPLES = msgspec.json.Decoder(_Example)
_LABELS = msgspec.json.Decoder(_Label)


def read_decisions(servers: str, report: Report) -> Decided:
    """Read the `decisions` topic."""
    return Decided(*_read(servers, DECISIONS, _decision_columns, report))


def read_examples(servers: str, report: Report) -> Examples:
    """Read the `training` topic."""
    return Examples(*_read(servers, TRAINING, _example_columns, report))


def read_labels(servers: str, report: Report) -> Labels:
    """Read the `feedback` topic."""
    return Labels(*_read(servers, FEEDBACK, _label_columns, report))


def _decision_columns(records: Sequence[Any]) -> tuple[Any, ...]:
    found = [_DECISIONS.decode(record.value) for record in records]
    return (
        np.array([item.transaction_id for item in found], dtype=np.bytes_),
        np.full(len(found), records[0].partition),
        np.array([item.event_time for item in found], dtype=np.int64),
        np.array([record.timestamp for record in records], dtype=np.int64),
        np.array([int(item.model_version.rpartition("@")[2]) for item in found], dtype=np.int64),
        np.array([hash(record.value) for record in records], dtype=np.int64),
        _scores(found),
    )


def _example_columns(records: Sequence[Any]) -> tuple[Any, ...]:
    found = [_EXAMPLES.decode(record.value) for record in records]
    return (
        np.array([item.label_id for item in found], dtype=np.bytes_),
        np.array([record.offset for record in records], dtype=np.int64),
        np.array([item.partition for item in found], dtype=np.int64),
        np.array([item.event_time for item in found], dtype=np.int64),
        np.array([item.label_time for item in found], dtype=np.int64),
        np.array([record.timestamp for record in records], dtype=np.int64),
        np.array([item.verdict == "fraud" for item in found], dtype=np.bool_),
        _scores(found),
    )


def _label_columns(records: Sequence[Any]) -> tuple[Any, ...]:
    found = [_LABELS.decode(record.value).label_id for record in records]
    times = np.array([record.timestamp for record in records], dtype=np.int64)
    return np.array(found, dtype=np.bytes_), times


def _scores(found: Sequence[_Decision | _Example]) -> dict[str, Floats]:
    """Give scores by model; the versions differ, the models are those of the settings."""
    champion = found[0].model_version.rpartition("@")[0]
    scores = {champion: np.array([item.score for item in found])}
    for place, version in enumerate(found[0].challengers):
        given = [tuple(item.challengers.values())[place] for item in found]
        scores[version.rpartition("@")[0]] = np.array(given)
    return scores


def _read(
    servers: str,
    topic: str,
    columns: Callable[[Sequence[Any]], tuple[Any, ...]],
    report: Report,
) -> tuple[Any, ...]:
    read, parts = 0, defaultdict[int, list[tuple[Any, ...]]](list)
    with LogReader(servers, topic) as reader:
        total = sum(reader.ends.values())
        for records in reader.chunks():
            parts[records[0].partition].append(columns(records))
            read += len(records)
            report(read, total)
    chunks = [chunk for partition in sorted(parts) for chunk in parts[partition]]
    assert chunks, f"nothing stands in {topic}"
    return tuple(_joined(column) for column in zip(*chunks, strict=True))


def _joined(column: Sequence[Any]) -> Any:
    if isinstance(column[0], dict):
        return {name: np.concatenate([chunk[name] for chunk in column]) for name in column[0]}
    return np.concatenate(column)

"""Dead letters: input that could not be processed, kept whole with place and reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.commit import OutboxRecord
from pipeline.events import Problem, mask_card_numbers
from pipeline.topics import DEAD_LETTERS

HEADER = "fraud.errors."
MESSAGE_BYTES_MAX = 1024


@dataclass(frozen=True, slots=True)
class InputRecord:
    """A record as it came, and its place."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


def dead_letter(record: InputRecord, problem: Problem, *, stage: str) -> OutboxRecord:
    """Give a record's dead letter: bytes and headers as they came, card numbers masked, and why."""
    value = None if record.value is None else mask_card_numbers(record.value)
    key = None if record.key is None else mask_card_numbers(record.key)
    said = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "stage": stage,
        "reason": problem.reason,
        "place": problem.place,
        "message": str(problem),
    }
    if (value, key) != (record.value, record.key):
        said["masked"] = "card numbers"
    headers = [(HEADER + name, text.encode()[:MESSAGE_BYTES_MAX]) for name, text in said.items()]
    return OutboxRecord(DEAD_LETTERS, record.partition, key, value, [*record.headers, *headers])

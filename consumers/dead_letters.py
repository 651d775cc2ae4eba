"""Dead letters: input that could not be processed, kept whole with place and reason.

A dead letter holds the key, the value and the headers of its record as they came, and behind them
headers of ours (`fraud.errors.*`) that say where it came from, what is wrong and who found it.
They depend on the record and the program alone, so a dead letter that is published again has the
same bytes. The digits of card numbers are masked, and `fraud.errors.masked` says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from traceback import extract_tb, format_exception
from typing import Self

from pipeline.card_numbers import mask_card_numbers, mask_card_numbers_in_text
from pipeline.commit import OutboxRecord
from pipeline.errors import FraudstreamError
from pipeline.events import Problem
from pipeline.schema import Schema
from pipeline.topics import DEAD_LETTERS

HEADER = "fraud.errors."
# Of a record that was sent again: the dead letter it had become, and by whom.
REDRIVE_HEADER = "fraud.redrive."
REDRIVE_SOURCE = REDRIVE_HEADER + "source"
MESSAGE_BYTES_MAX = 1024

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class InputRecord:
    """A record as it came, and its place."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None
    headers: Headers = ()


def dead_letter(
    record: InputRecord, problem: Problem, *, stage: str, schema: Schema
) -> OutboxRecord:
    """Give a record's dead letter: bytes and headers as they came, card numbers masked, and why."""
    value, key = _masked(record.value), _masked(record.key)
    headers = [(mask_card_numbers_in_text(name), _masked(text)) for name, text in record.headers]
    said = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "stage": stage,
        "reason": problem.reason,
        "place": problem.place,
        "message": str(problem),
        "schema_version": f"{schema.name}:{schema.version}",
        "app_version": app_version(),
    }
    if record.timestamp_ms is not None:
        # When the record came: the moment of its refusal would differ from try to try.
        said["ts"] = str(record.timestamp_ms)
    if (value, key, headers) != (record.value, record.key, list(record.headers)):
        said["masked"] = "card numbers"
    ours = [(HEADER + name, _cut(text)) for name, text in said.items()]
    return OutboxRecord(DEAD_LETTERS, record.partition, key, value, [*headers, *ours])


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it was read back.

    Parameters
    ----------
    said
        What our headers say, by their names without `fraud.errors.`.
    headers
        Those of the original record.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    said: dict[str, str]
    headers: Headers

    @classmethod
    def of(
        cls,
        partition: int,
        offset: int,
        key: bytes | None,
        value: bytes | None,
        headers: Iterable[tuple[str, bytes | None]],
    ) -> Self | None:
        """Read a record of the topic; `None` if it is not one of our dead letters."""
        given = list(headers)
        # Whatever a producer called its own headers, ours stand behind them.
        begin = max(
            (at for at, (name, _) in enumerate(given) if name == HEADER + "topic"), default=-1
        )
        said = {
            name.removeprefix(HEADER): (text or b"").decode(errors="replace")
            for name, text in given[begin:]
        }
        if begin < 0 or not {"topic", "partition", "offset", "reason"} <= said.keys():
            return None
        if not (said["partition"].isdecimal() and said["offset"].isdecimal()):
            return None
        return cls(partition, offset, key, value, said, given[:begin])

    @property
    def place(self) -> str:
        """Where it stands in `dead-letters`."""
        return f"{self.partition}:{self.offset}"

    @property
    def source(self) -> str:
        """Where its record came from. A dead letter that was published again has the same."""
        return f"{self.said['topic']}:{self.said['partition']}:{self.said['offset']}"

    @property
    def is_masked(self) -> bool:
        """Whether its bytes are no longer the original ones."""
        return "masked" in self.said


def internal_error(error: BaseException) -> Problem:
    """Give the problem of a record that our own code fails on.

    It names the kind of error and where it was raised, and not its text, which may hold values.
    """
    *_, innermost = extract_tb(error.__traceback__)
    place = f"{Path(innermost.filename).name}:{innermost.lineno}"
    return Problem("internal_error", "$", "no error of ours", f"{type(error).__name__} in {place}")


def traceback_of(error: BaseException) -> str:
    """Give the traceback of an error for the log, card numbers masked."""
    return mask_card_numbers_in_text("".join(format_exception(error)))


class EventError(FraudstreamError):
    """Our own code failed on some record of a batch; `cause` is what it raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause


@cache
def app_version() -> str:
    """Give the version of this program."""
    return version("fraudstream")


def redriven(records: Sequence[InputRecord]) -> int:
    """Count the records that had been dead letters and were sent again."""
    return sum(
        any(name == REDRIVE_SOURCE for name, _ in record.headers)
        for record in records
        if record.headers
    )


def _masked(text: bytes | None) -> bytes | None:
    return None if text is None else mask_card_numbers(text)


def _cut(text: str) -> bytes:
    return text.encode()[:MESSAGE_BYTES_MAX].decode(errors="ignore").encode()

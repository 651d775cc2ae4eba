"""Transactions and the labels that become known meanwhile, in the order of time.

A label waits for its delay and is then due: it goes before the next transaction, and never before
its own. With one constant delay the waiting labels are a queue; they are kept as arrays, about
forty bytes each, and are the only memory that grows with the delay.

    t1 (10:00)  t2 (10:05)  label of t1 (10:10)  t3 (10:12)  label of t2 (10:15)  ...

>>> from pipeline.schema import load_schema
>>> from pipeline.events import no_numbers
>>> from producers.batch import EventBatch
>>> batch = EventBatch(
...     ["t1", "t2", "t3"], np.array([1_000, 2_000, 3_000]), (["c1"] * 3, ["m1"] * 3),
...     np.array([950, 10, 20]), ["EUR"] * 3, (), no_numbers(3),
...     np.array([0, 1, -1], dtype=np.int8),
... )
>>> labels = LabelOptions(delay_ms=1_500)
>>> [text or "label" for block in feed([batch], load_schema("card"), labels)
...     for text in block.transaction_id]
['t1', 't2', 'label', 't3']
"""

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingError
from pipeline.partitioner import partition_of
from pipeline.schema import Schema
from pipeline.signing import Headers, LabelSigner
from pipeline.topics import FEEDBACK
from producers.batch import LABEL_UNKNOWN, EventBatch
from producers.encoding import SOURCE, LabelEncoder, TransactionEncoder

# Encoding one holds the interpreter for less than a millisecond, which a paced stream can bear.
BLOCK_EVENTS = 1_024
# Which genuine events get a label depends on their id and this key alone.
SHARE_KEY = b"label share"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """When labels come, and for which events.

    Parameters
    ----------
    delay_ms
        Event time from a transaction to its label.
    genuine_share
        The share of the genuine transactions that get a label, chosen by a hash of the id.
    to_end
        After the last transaction, give the labels still waiting as well.
    """

    delay_ms: int
    genuine_share: float = 1.0
    to_end: bool = False

    def __post_init__(self) -> None:
        if self.delay_ms < 0 or not 0.0 <= self.genuine_share <= 1.0:
            raise SettingError(
                f"delay_ms ({self.delay_ms}) must not be negative, genuine_share "
                f"({self.genuine_share}) must be 0 to 1"
            )


@dataclass(frozen=True, slots=True)
class Block:
    """Records as columns, in the order to be sent.

    Parameters
    ----------
    transaction_id
        Of a transaction; empty for a label or an outcome.
    time_ms
        Event time of a transaction, label time of a label.
    topic
        Where records go that are no transactions.
    headers
        Of each record; none where no record has any.
    is_tail
        The stream has ended and these are the labels that were still waiting.
    """

    transaction_id: list[str]
    key: list[str]
    value: list[bytes]
    time_ms: list[int]
    is_tail: bool = False
    topic: str = FEEDBACK
    headers: Sequence[Headers] = ()


def feed(
    batches: Iterable[EventBatch],
    schema: Schema,
    labels: LabelOptions | None,
    signer: LabelSigner | None = None,
) -> Generator[Block]:
    """Encode batches that are in time order, and put labels where they become due."""
    encoder = TransactionEncoder(schema)
    waiting = _Waiting(schema, labels, signer or LabelSigner(None)) if labels else None
    for batch in batches:
        for start in range(0, len(batch), BLOCK_EVENTS):
            part = batch.slice(start, start + BLOCK_EVENTS)
            block = Block(
                list(part.transaction_id),
                list(part.keys[0]),
                encoder.encode(part),
                part.event_time_ms.tolist(),
            )
            yield waiting.merged(part, block) if waiting else block
    if waiting and labels and labels.to_end:
        yield from waiting.rest()


def limited(batches: Iterable[EventBatch], limit: int) -> Iterator[EventBatch]:
    """Pass on so many events, then end."""
    for batch in batches:
        if limit <= 0:
            return
        yield batch.slice(0, limit)
        limit -= len(batch)


def of_share(
    batches: Iterable[EventBatch], part: int, parts: int, *, partitions: int
) -> Iterator[EventBatch]:
    """Pass on the events of every `parts`-th partition, from the one numbered `part` on.

    A partition is in one share as a whole, so that its order is kept however fast each is sent.
    """

    @cache
    def is_ours(key: str) -> bool:
        return partition_of(key.encode(), partitions) % parts == part

    for batch in batches:
        yield batch.take(np.flatnonzero([is_ours(key) for key in batch.keys[0]]))


@dataclass(frozen=True, slots=True)
class _Labels:
    """Waiting labels as columns; `row` is the number of its transaction in the stream."""

    row: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    transaction_id: NDArray[np.bytes_]
    key: NDArray[np.bytes_]
    is_fraud: NDArray[np.bool_]

    def slice(self, start: int, stop: int) -> "_Labels":
        return _Labels(
            self.row[start:stop],
            self.time_ms[start:stop],
            self.transaction_id[start:stop],
            self.key[start:stop],
            self.is_fraud[start:stop],
        )


class _Waiting:
    """The queue of labels that are not due yet."""

    def __init__(self, schema: Schema, options: LabelOptions, signer: LabelSigner) -> None:
        self._encoder, self._signer = LabelEncoder(schema), signer
        self._options = options
        self._queue: deque[_Labels] = deque()
        self._rows = 0

    def merged(self, batch: EventBatch, block: Block) -> Block:
        """Take in the batch's labels and give its block with those that became due."""
        first_row, self._rows = self._rows, self._rows + len(batch)
        self._add(batch, first_row)
        due = self._due(int(batch.event_time_ms[-1]))
        if not due:
            return block
        labels = [self._block(part) for part in due]
        rows = np.concatenate([part.row for part in due])
        times = np.concatenate([part.time_ms for part in due])
        # Before the first transaction that is not earlier, but after the label's own.
        before = np.maximum(
            np.searchsorted(batch.event_time_ms, times, side="left"), rows - first_row + 1
        )
        return _interleaved(block, labels, before)

    def rest(self) -> Iterator[Block]:
        """Give all that still wait."""
        while self._queue:
            yield self._block(self._queue.popleft(), is_tail=True)

    def _add(self, batch: EventBatch, first_row: int) -> None:
        chosen = np.flatnonzero(self._chosen(batch))
        if len(chosen):
            self._queue.append(
                _Labels(
                    first_row + chosen,
                    batch.event_time_ms[chosen] + self._options.delay_ms,
                    np.array(list(batch.transaction_id), dtype=np.bytes_)[chosen],
                    np.array(list(batch.keys[0]), dtype=np.bytes_)[chosen],
                    batch.is_fraud[chosen] == 1,
                )
            )

    def _chosen(self, batch: EventBatch) -> NDArray[np.bool_]:
        known: NDArray[np.bool_] = batch.is_fraud != LABEL_UNKNOWN
        if self._options.genuine_share < 1.0:
            for row in np.flatnonzero(batch.is_fraud == 0).tolist():
                known[row] = _share_of(batch.transaction_id[row]) < self._options.genuine_share
        return known

    def _due(self, until_ms: int) -> list[_Labels]:
        """Take from the queue what is due up to this time, that included."""
        due = []
        while self._queue and self._queue[0].time_ms[0] <= until_ms:
            labels = self._queue.popleft()
            count = int(np.searchsorted(labels.time_ms, until_ms, side="right"))
            due.append(labels.slice(0, count))
            if count < len(labels.time_ms):
                self._queue.appendleft(labels.slice(count, len(labels.time_ms)))
                break
        return due

    def _block(self, labels: _Labels, *, is_tail: bool = False) -> Block:
        ids = labels.transaction_id.astype(np.str_).tolist()
        keys = labels.key.astype(np.str_).tolist()
        times = labels.time_ms.tolist()
        values = self._encoder.encode(ids, keys, labels.is_fraud.tolist(), times)
        headers = [
            self._signer.headers(SOURCE, key.encode(), value)
            for key, value in zip(keys, values, strict=True)
        ]
        return Block([""] * len(ids), keys, values, times, is_tail, headers=headers)


def _share_of(transaction_id: str) -> float:
    """Give a number from 0 to below 1 that depends on the id alone."""
    digest = hashlib.blake2b(transaction_id.encode(), digest_size=8, key=SHARE_KEY).digest()
    return int.from_bytes(digest, "little") / 2.0**64


def _interleaved(block: Block, labels: list[Block], before: NDArray[np.int64]) -> Block:
    """Put each label before the transaction of that number in the block."""
    places = np.concatenate([2 * np.arange(len(block.key)) + 1, 2 * before])
    order = np.argsort(places, kind="stable").tolist()
    parts = [block, *labels]
    transaction_id = [text for part in parts for text in part.transaction_id]
    key = [text for part in parts for text in part.key]
    value = [record for part in parts for record in part.value]
    time_ms = [time for part in parts for time in part.time_ms]
    headers = [found for part in parts for found in part.headers or [()] * len(part.key)]
    return Block(
        [transaction_id[place] for place in order],
        [key[place] for place in order],
        [value[place] for place in order],
        [time_ms[place] for place in order],
        headers=[headers[place] for place in order],
    )

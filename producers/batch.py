"""Events as columns with what is known of their truth: what every producer gives.

The simulator and the file reader yield the same batches, so that publishing, replay and reports
need not know where events came from. The label and the scenario stand beside the event and never
in it.

>>> from pipeline.events import no_numbers
>>> batch = EventBatch(
...     ["t1", "t2"], np.array([1000, 2000]), (["c1", "c2"], ["m1", "m1"]), np.array([950, 0]),
...     ["EUR", "EUR"], (), no_numbers(2), np.array([0, -1], dtype=np.int8),
... )
>>> len(batch), batch.slice(1, 2).keys, batch.transactions().amount_minor.tolist()
(2, (['c2'], ['m1']), [950, 0])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.events import Transactions
from pipeline.incumbent import Incumbent
from pipeline.texts import joined as joined_texts
from pipeline.texts import taken

LABEL_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in time order, as columns of one length.

    Parameters
    ----------
    keys
        One column of ids for each entity of the schema, the partition key first.
    categories
        One column of texts for each category of the schema.
    numbers
        One column for each number of the schema, NaN where it is missing.
    is_fraud
        1 fraud, 0 genuine, -1 unknown.
    scenario
        Why a simulated event is a fraud, 0 for the others; for reports only, never an input.
    segments
        One column of texts for each column that quality is asked by; for reports only as well.
    incumbents
        What the present system said of each event; empty where it spoke of none.
    declined
        Whether each attempt was refused; `None` where no answer is known of any.
    row
        The number of each event's row in its file, from 1; `None` where events are made.
    """

    transaction_id: Sequence[str]
    event_time_ms: NDArray[np.int64]
    keys: tuple[Sequence[str], ...]
    amount_minor: NDArray[np.int64]
    currency: Sequence[str]
    categories: tuple[Sequence[str], ...]
    numbers: NDArray[np.float32]
    is_fraud: NDArray[np.int8]
    scenario: NDArray[np.int8] | None = None
    segments: tuple[Sequence[str], ...] = ()
    incumbents: Sequence[Incumbent | None] = ()
    row: NDArray[np.int64] | None = None
    declined: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.transaction_id)

    def transactions(self) -> Transactions:
        """Give the events alone, as the engine takes them."""
        return Transactions(
            transaction_id=self.transaction_id,
            event_time_ms=self.event_time_ms,
            keys=(*self.keys, *self.categories),
            amount_minor=self.amount_minor,
            currency=self.currency,
            numbers=self.numbers,
            incumbents=self.incumbents,
            declined=self.declined,
        )

    def slice(self, start: int, stop: int) -> "EventBatch":
        """Give the batch of rows `start` to `stop`, without that one."""
        return EventBatch(
            transaction_id=self.transaction_id[start:stop],
            event_time_ms=self.event_time_ms[start:stop],
            keys=tuple(ids[start:stop] for ids in self.keys),
            amount_minor=self.amount_minor[start:stop],
            currency=self.currency[start:stop],
            categories=tuple(texts[start:stop] for texts in self.categories),
            numbers=self.numbers[start:stop],
            is_fraud=self.is_fraud[start:stop],
            scenario=None if self.scenario is None else self.scenario[start:stop],
            segments=tuple(texts[start:stop] for texts in self.segments),
            incumbents=self.incumbents[start:stop],
            row=None if self.row is None else self.row[start:stop],
            declined=None if self.declined is None else self.declined[start:stop],
        )

    def take(self, rows: NDArray[np.intp]) -> "EventBatch":
        """Give the batch of these rows, in their order."""
        return EventBatch(
            transaction_id=taken(self.transaction_id, rows),
            event_time_ms=self.event_time_ms[rows],
            keys=tuple(taken(ids, rows) for ids in self.keys),
            amount_minor=self.amount_minor[rows],
            currency=taken(self.currency, rows),
            categories=tuple(taken(texts, rows) for texts in self.categories),
            numbers=self.numbers[rows],
            is_fraud=self.is_fraud[rows],
            scenario=None if self.scenario is None else self.scenario[rows],
            segments=tuple(taken(texts, rows) for texts in self.segments),
            incumbents=[self.incumbents[row] for row in rows] if self.incumbents else (),
            row=None if self.row is None else self.row[rows],
            declined=None if self.declined is None else self.declined[rows],
        )


def joined(batches: Sequence[EventBatch]) -> EventBatch:
    """Put batches of one source together, in their order; at least one is needed."""
    scenarios = [batch.scenario for batch in batches if batch.scenario is not None]
    rows = [batch.row for batch in batches if batch.row is not None]
    declined = [batch.declined for batch in batches if batch.declined is not None]
    return EventBatch(
        transaction_id=joined_texts([batch.transaction_id for batch in batches]),
        event_time_ms=np.concatenate([batch.event_time_ms for batch in batches]),
        keys=_columns([batch.keys for batch in batches]),
        amount_minor=np.concatenate([batch.amount_minor for batch in batches]),
        currency=joined_texts([batch.currency for batch in batches]),
        categories=_columns([batch.categories for batch in batches]),
        numbers=np.concatenate([batch.numbers for batch in batches]),
        is_fraud=np.concatenate([batch.is_fraud for batch in batches]),
        scenario=np.concatenate(scenarios) if len(scenarios) == len(batches) else None,
        segments=_columns([batch.segments for batch in batches]),
        incumbents=_incumbents(batches),
        row=np.concatenate(rows) if len(rows) == len(batches) else None,
        declined=np.concatenate(declined) if len(declined) == len(batches) else None,
    )


def _incumbents(batches: Sequence[EventBatch]) -> list[Incumbent | None]:
    if not any(batch.incumbents for batch in batches):
        return []
    parts = [batch.incumbents or (None,) * len(batch) for batch in batches]
    return list(chain.from_iterable(parts))


def _columns(parts: Sequence[tuple[Sequence[str], ...]]) -> tuple[Sequence[str], ...]:
    return tuple(joined_texts(columns) for columns in zip(*parts, strict=True))

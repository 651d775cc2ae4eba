"""Where a replay's labels come from: what becomes known after a decision, and when.

A source is told every decision together with the truth, which it alone may see, and is asked at
each tick what has become known. `ConstantDelay` is a file's view of the world: every label comes,
so long after its event, whatever was decided. A closed loop is another one: it answers to what was
decided, as the world does.

>>> source = ConstantDelay(1_000)
>>> source.due(5_000)
Known(labels=[], outcomes=[])
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.events import Label, Outcome, Transactions

if TYPE_CHECKING:
    from pipeline.engine import Decisions


@dataclass(frozen=True, slots=True)
class Known:
    """What has become known since it was last asked for, in the order of time."""

    labels: list[Label] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


class LabelSource(Protocol):
    """The world behind a replay: it sees what was decided and gives back what becomes known."""

    def decided(
        self, batch: Transactions, decisions: "Decisions", is_fraud: NDArray[np.int8]
    ) -> None:
        """Take a batch, what was decided of it, and the truth of each of its rows."""

    def due(self, now_ms: int) -> Known:
        """Give, once, everything that is known at this moment and was not given before."""


class ConstantDelay:
    """Every known label comes, a constant time after its event; nothing is known of outcomes."""

    def __init__(self, delay_ms: int) -> None:
        self._delay_ms = delay_ms
        self._waiting: deque[tuple[Transactions, NDArray[np.int8]]] = deque()

    def decided(
        self, batch: Transactions, decisions: "Decisions", is_fraud: NDArray[np.int8]
    ) -> None:
        """Keep the labels of a batch, of events that came twice as well."""
        self._waiting.append((batch, is_fraud))

    def due(self, now_ms: int) -> Known:
        """Give the labels of all events that are old enough."""
        known = Known()
        event_ms = now_ms - self._delay_ms
        while self._waiting and self._waiting[0][0].event_time_ms[0] <= event_ms:
            batch, is_fraud = self._waiting.popleft()
            count = int(np.searchsorted(batch.event_time_ms, event_ms, side="right"))
            known.labels.extend(
                label_of(batch, is_fraud, row, self._delay_ms)
                for row in np.flatnonzero(is_fraud[:count] >= 0).tolist()
            )
            if count < len(batch):
                self._waiting.appendleft((batch.slice(count, len(batch)), is_fraud[count:]))
        return known


def label_of(batch: Transactions, is_fraud: NDArray[np.int8], row: int, delay_ms: int) -> Label:
    """Give the label of one event, so long after it."""
    return Label(
        label_id=f"l-{batch.transaction_id[row]}",
        transaction_id=batch.transaction_id[row],
        key=batch.keys[0][row],
        is_fraud=bool(is_fraud[row] == 1),
        source="simulated",
        label_time_ms=int(batch.event_time_ms[row]) + delay_ms,
    )

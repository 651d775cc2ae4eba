"""Training examples as columns: what a fold of the training log reads of them, and nothing else.

The log holds one record for each label. A replay learns millions of them, so whoever learns works
on columns, and a batch of records becomes columns once.

>>> examples = Examples.of([], names=("card",))
>>> len(examples), examples.keys
(0, ([],))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.records import FEATURE_DTYPE, TrainingExample
from pipeline.texts import taken


@dataclass(frozen=True, slots=True)
class Examples:
    """Labels joined to what was decided, in the order of their log, as columns of one length.

    Parameters
    ----------
    keys
        One column of ids for each keyed field of the schema.
    corrects
        Whether the example takes the place of an earlier one of the same event.
    members
        What the members of a mixture said, by name; NaN where one was not asked.
    """

    transaction_id: Sequence[str]
    keys: tuple[Sequence[str], ...]
    features: NDArray[np.float32]
    is_fraud: NDArray[np.int8]
    weights: NDArray[np.float64]
    amount: NDArray[np.int64]
    event_time_ms: NDArray[np.int64]
    corrects: NDArray[np.bool_]
    members: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.transaction_id)

    @classmethod
    def of(cls, records: Sequence[TrainingExample], *, names: Sequence[str]) -> "Examples":
        """Give records as columns; `names` are those of the schema's keyed fields."""
        packed = b"".join(record.features for record in records)
        width = len(packed) // len(records) if records else 0
        return cls(
            transaction_id=[record.transaction_id for record in records],
            keys=tuple([record.keys[name] for record in records] for name in names),
            features=np.frombuffer(packed, FEATURE_DTYPE).reshape(
                len(records), width // FEATURE_DTYPE.itemsize
            ),
            is_fraud=np.array([record.is_fraud for record in records], np.int8),
            weights=np.array([record.weight for record in records], np.float64),
            amount=np.array([record.amount for record in records], np.int64),
            event_time_ms=np.array([record.event_time for record in records], np.int64),
            corrects=np.array([record.supersedes is not None for record in records], np.bool_),
            members={
                name: np.array([record.members.get(name, np.nan) for record in records])
                for name in {name for record in records for name in record.members}
            },
        )

    def take(self, rows: NDArray[np.int64], weights: NDArray[np.float64]) -> "Examples":
        """Give the examples of these rows, in their order, with weights of their own."""
        return Examples(
            transaction_id=taken(self.transaction_id, rows),
            keys=tuple(taken(ids, rows) for ids in self.keys),
            features=self.features[rows],
            is_fraud=self.is_fraud[rows],
            weights=weights,
            amount=self.amount[rows],
            event_time_ms=self.event_time_ms[rows],
            corrects=self.corrects[rows],
            members={name: scores[rows] for name, scores in self.members.items()},
        )

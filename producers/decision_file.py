"""Decisions of a replay as a Parquet file, whole enough to be judged, joined and made again.

A row holds the event's keys and amount, what the file knows of its truth, what every model said,
what was done and why. What was written until an interrupt is a whole file.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.engine import Decisions
from pipeline.events import Transactions
from pipeline.records import ACTIONS
from pipeline.schema import Schema

# Rows that a row group has, at least.
ROW_GROUP_EVENTS = 50_000
INCUMBENT = (("incumbent_score", pa.float64()), ("incumbent_action", pa.string()))
REASONS = pa.list_(pa.struct([("code", pa.string()), ("contribution", pa.float64())]))


class DecisionFile:
    """Writes decisions with their truth.

    Parameters
    ----------
    models
        Names of the models, the champion first; each challenger's score has a column.
    features
        Names of the features, each a column `feature_...`; nothing, where they are not wanted.
    """

    def __init__(
        self, path: Path, schema: Schema, models: Sequence[str], features: Sequence[str] = ()
    ) -> None:
        self._challengers = len(models) - 1
        self._with_features = bool(features)
        fields = [
            ("transaction_id", pa.string()),
            ("event_time", pa.timestamp("ms", tz="UTC")),
            *((f"{item.name}_id", pa.string()) for item in schema.entities),
            *((item.name, pa.string()) for item in schema.categories),
            ("amount_minor", pa.int64()),
            ("currency", pa.string()),
            ("is_fraud", pa.bool_()),
            ("score", pa.float64()),
            *((f"score_{name}", pa.float64()) for name in models[1:]),
            ("action", pa.string()),
            ("reasons", REASONS),
            ("model_version", pa.string()),
            ("policy_version", pa.string()),
            ("label_offset", pa.int64()),
            ("schema_hash", pa.string()),
            *(INCUMBENT if schema.incumbent else ()),
            *((f"feature_{name}", pa.float32()) for name in features),
        ]
        self._with_incumbent = schema.incumbent is not None
        self._schema = pa.schema(fields)
        self._writer = pq.ParquetWriter(path, self._schema)
        self._parts: list[pa.RecordBatch] = []
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, decisions: Decisions, is_fraud: NDArray[np.int8]) -> None:
        """Take a batch of decisions; the truth is 1, 0, or -1 where nobody knows."""
        columns = self._columns(decisions, is_fraud)
        arrays = [
            pa.array(column, kind) for column, kind in zip(columns, self._schema.types, strict=True)
        ]
        self._parts.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows += len(decisions)
        if self._rows >= ROW_GROUP_EVENTS:
            self._flush()

    def _columns(self, decisions: Decisions, is_fraud: NDArray[np.int8]) -> list[Any]:
        count, events = len(decisions), decisions.transactions
        features = decisions.features.T if self._with_features else ()
        return [
            events.transaction_id,
            events.event_time_ms,
            *events.keys,
            events.amount_minor,
            events.currency,
            [None if verdict < 0 else verdict == 1 for verdict in is_fraud.tolist()],
            decisions.scores,
            *decisions.challengers.values(),
            [ACTIONS[action] for action in decisions.actions.tolist()],
            [
                [{"code": code, "contribution": value} for code, value in reasons]
                for reasons in decisions.reasons
            ],
            [decisions.model_version] * count,
            [decisions.policy_version] * count,
            np.full(count, decisions.label_offset),
            [decisions.schema_hash] * count,
            *(_incumbents(events) if self._with_incumbent else ()),
            *(np.ascontiguousarray(column) for column in features),
        ]

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._parts, self._schema))
        self._parts, self._rows = [], 0


def _incumbents(events: Transactions) -> tuple[list[Any], list[Any]]:
    given = events.incumbents or (None,) * len(events)
    return [item and item.score for item in given], [item and item.action for item in given]

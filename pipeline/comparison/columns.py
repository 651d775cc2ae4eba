"""Decisions and their labels as columns, joined by id: some fifty bytes for each decision.

Ids are kept as hashes of 64 bits. A decision that comes again is one decision; of the labels of a
decision the last counts, as in the training log, where a correction comes after what it corrects.

>>> log = ComparisonLog()
>>> log.decide(Decided(
...     ids=["t1", "t2", "t1"], event_time_ms=[0, 5, 0], amount_minor=[900, 100, 900],
...     scores=[0.9, 0.1, 0.9], actions=["decline", "approve", "decline"], currencies=["EUR"] * 3,
...     incumbents=[None, Incumbent(0.4, "review"), None], segments={},
... ))
>>> log.label(["t2", "t2"], [False, True], matured=[True, False])
>>> found = log.columns()
>>> found.label.tolist(), found.their_action.tolist(), found.matured.tolist()
([-1, 1], [-1, 1], [False, False])
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.actions import ACTIONS
from pipeline.incumbent import Incumbent
from pipeline.quality.groups import GroupColumn, Groups

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Codes = NDArray[np.int8]

UNKNOWN = -1
DIGEST_BYTES = 8
_CODES: dict[str | None, int] = {name: place for place, name in enumerate(ACTIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Some decisions, as they were read; `segments` has the values of the fields asked for."""

    ids: Sequence[str]
    event_time_ms: ArrayLike
    amount_minor: ArrayLike
    scores: ArrayLike
    actions: Sequence[str]
    currencies: Sequence[str]
    incumbents: Sequence[Incumbent | None]
    segments: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class ComparisonColumns:
    """Decisions of a period, each once, in the order in which they were read.

    Parameters
    ----------
    score, action
        What we said and did; an action is its number in `ACTIONS`.
    their_score, their_action
        What the incumbent said and did; NaN and -1 where it did not, or could not be read.
    label
        1 fraud, 0 genuine, -1 unknown.
    matured
        Whether the label is that of silence.
    unread
        How many values of the incumbent could not be read, by `score` and `action`.
    """

    event_time_ms: Ints
    amount_minor: Ints
    score: Floats
    action: Codes
    their_score: Floats
    their_action: Codes
    label: Codes
    matured: Bools
    segments: dict[str, GroupColumn]
    currencies: tuple[str, ...]
    unread: dict[str, int]

    def __len__(self) -> int:
        return len(self.score)


class ComparisonLog:
    """Takes decisions and labels in any order of the two; `from_ms` and `to_ms` are event times."""

    def __init__(self, from_ms: int | None = None, to_ms: int | None = None) -> None:
        self._from_ms, self._to_ms = from_ms, to_ms
        self._parts: list[tuple[NDArray[np.generic], ...]] = []
        self._labels: list[tuple[Ints, Codes, Bools]] = []
        self._groups = Groups()
        self._currencies: set[str] = set()
        self._unread: Counter[str] = Counter()
        self.decisions = 0

    def decide(self, batch: Decided) -> None:
        """Take decisions; those of another period are passed over."""
        times = np.array(batch.event_time_ms, np.int64)
        inside = np.ones(len(times), np.bool_)
        if self._from_ms is not None:
            inside &= times >= self._from_ms
        if self._to_ms is not None:
            inside &= times < self._to_ms
        rows = np.flatnonzero(inside)
        kept = rows.tolist()
        said = [batch.incumbents[row] for row in kept]
        scores = [np.nan if item is None or item.score is None else item.score for item in said]
        done = [_CODES.get(item.action, UNKNOWN) if item else UNKNOWN for item in said]
        self._parts.append((
            _digests([batch.ids[row] for row in kept]),
            times[rows],
            np.array(batch.amount_minor, np.int64)[rows],
            np.array(batch.scores, np.float64)[rows],
            np.array([_CODES[batch.actions[row]] for row in kept], np.int8),
            np.array(scores, np.float64),
            np.array(done, np.int8),
        ))  # fmt: skip
        for field, values in batch.segments.items():
            self._groups.add(field, [values[row] for row in kept])
        self._currencies.update(batch.currencies[row] for row in kept)
        self._unread.update(name for item in said if item for name in item.unread)
        self.decisions += len(kept)

    def label(self, ids: Sequence[str], is_fraud: ArrayLike, matured: ArrayLike) -> None:
        """Take labels, in the order in which they were told."""
        verdicts = np.asarray(is_fraud, np.int8)
        self._labels.append((_digests(ids), verdicts, np.asarray(matured, np.bool_)))

    def columns(self) -> ComparisonColumns:
        """Join what was taken."""
        if not self._parts:
            self.decide(Decided(
                ids=(), event_time_ms=(), amount_minor=(), scores=(), actions=(), currencies=(),
                incumbents=(), segments={},
            ))  # fmt: skip
        ids, *columns = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        self._parts = []
        _, first = np.unique(ids, return_index=True)
        first.sort()
        label, matured = self._joined(ids[first])
        times, amounts, scores, actions, their_scores, their_actions = (
            column[first] for column in columns
        )
        return ComparisonColumns(
            times, amounts, scores, actions, their_scores, their_actions, label, matured,
            segments={
                field: GroupColumn(column.names, column.code[first])
                for field, column in self._groups.columns().items()
            },
            currencies=tuple(sorted(self._currencies)),
            unread=dict(self._unread),
        )  # fmt: skip

    def _joined(self, ids: Ints) -> tuple[Codes, Bools]:
        """Give the last label of each id."""
        label, matured = np.full(len(ids), UNKNOWN, np.int8), np.zeros(len(ids), np.bool_)
        if not self._labels:
            return label, matured
        known, verdicts, silent = (np.concatenate(part) for part in zip(*self._labels, strict=True))
        self._labels = []
        # Backwards, so that the last one is the first that is found.
        found, place = np.unique(known[::-1], return_index=True)
        last = len(known) - 1 - place
        at = np.minimum(np.searchsorted(found, ids), max(len(found) - 1, 0))
        hit = found[at] == ids if len(found) else np.zeros(len(ids), np.bool_)
        label[hit], matured[hit] = verdicts[last[at[hit]]], silent[last[at[hit]]]
        return label, matured


def _digests(ids: Sequence[str]) -> Ints:
    joined = b"".join(blake2b(key.encode(), digest_size=DIGEST_BYTES).digest() for key in ids)
    return np.frombuffer(joined, np.int64)

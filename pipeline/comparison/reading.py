"""Decisions and labels from what the topics hold, a chunk at a time, without their features.

>>> decided_of([b"{}", None], ("card",), 2).ids
[]
>>> amount_band(1_250, 2), amount_band(99_999_900, 2)
('10 to 50', '5,000 and more')
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from pipeline.actions import Action
from pipeline.comparison.columns import ComparisonLog, Decided
from pipeline.errors import SettingError
from pipeline.incumbent import Incumbent
from pipeline.schema import Schema

T = TypeVar("T")

AMOUNT = "amount"
# Of the major unit.
AMOUNT_EDGES = (0, 10, 50, 100, 500, 1_000, 5_000)


class _Decision(msgspec.Struct, gc=False):
    """What a comparison reads of a decision."""

    transaction_id: str
    event_time: int
    keys: dict[str, str]
    amount: int
    currency: str
    action: Action
    score: float
    incumbent: Incumbent | None = None


class _Example(msgspec.Struct, gc=False):
    """What a comparison reads of a training example, or of a label."""

    transaction_id: str
    verdict: str
    source: str


_DECISIONS = msgspec.json.Decoder(_Decision)
_EXAMPLES = msgspec.json.Decoder(_Example)


def decided_of(values: Iterable[bytes | None], segments: Sequence[str], digits: int) -> Decided:
    """Read records of `decisions`; one that is not of the format is passed over."""
    found = [item for item in (_decoded(_DECISIONS, value) for value in values) if item is not None]
    return Decided(
        ids=[item.transaction_id for item in found],
        event_time_ms=[item.event_time for item in found],
        amount_minor=[item.amount for item in found],
        scores=[item.score for item in found],
        actions=[item.action for item in found],
        currencies=[item.currency for item in found],
        incumbents=[item.incumbent for item in found],
        segments={name: _values(found, name, digits) for name in segments},
    )


def _values(found: Sequence[_Decision], name: str, digits: int) -> list[str]:
    if name == AMOUNT:
        return [amount_band(item.amount, digits) for item in found]
    return [item.keys.get(name, "none") for item in found]


def take_labels(log: ComparisonLog, values: Iterable[bytes | None]) -> None:
    """Read records of `training`, or labels, into a log; others are passed over."""
    found = [item for item in (_decoded(_EXAMPLES, value) for value in values) if item is not None]
    log.label(
        [item.transaction_id for item in found],
        np.array([item.verdict == "fraud" for item in found], np.int8),
        np.array([item.source == "matured" for item in found], np.bool_),
    )


def _decoded(decoder: msgspec.json.Decoder[T], value: bytes | None) -> T | None:
    try:
        return None if value is None else decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def amount_band(minor: int, digits: int) -> str:
    """Give the band of an amount, in whole units of money."""
    place = bisect_right(AMOUNT_EDGES, minor / 10**digits) - 1
    if place == len(AMOUNT_EDGES) - 1:
        return f"{AMOUNT_EDGES[-1]:,} and more"
    return f"{AMOUNT_EDGES[place]:,} to {AMOUNT_EDGES[place + 1]:,}"


def check_segments(schema: Schema, asked: Sequence[str]) -> None:
    """Refuse a segment that no decision of the schema has."""
    known = [*(item.name for item in schema.keyed), AMOUNT]
    for name in asked:
        if name not in known:
            raise SettingError(f"--segment {name!r}: expected one of {', '.join(known)}")

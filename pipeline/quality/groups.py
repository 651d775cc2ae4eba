"""Where the scores fail: quality by scenario and by segment, with how sure each share is.

A segment is a part of the events by a category, or by a column of the file that is no feature (an
age group, a region): a model may fail there, or be unfair there, whatever its mean says. A scenario
is the kind of a fraud, where a simulator or an investigation wrote it down.

>>> groups = Groups()
>>> groups.add("channel", ["web", "shop", "web"])
>>> groups.columns()["channel"].names, groups.columns()["channel"].code.tolist()
(('web', 'shop'), [0, 1, 0])
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.numbering import Numbering
from pipeline.quality.budget import in_top
from pipeline.quality.intervals import Interval, wilson

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# Beyond so many values of a field the rarest are judged together.
SEGMENTS_MAX = 12
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class GroupColumn:
    """Which group each event belongs to, as a number of `names`."""

    names: tuple[str, ...]
    code: NDArray[np.int32]


class Groups:
    """Takes the values of fields as the events pass, and keeps four bytes of each."""

    def __init__(self) -> None:
        self._codes: dict[str, Numbering] = {}
        self._parts: dict[str, list[NDArray[np.int32]]] = {}

    def add(self, field: str, values: Sequence[str]) -> None:
        """Take the values of further events of the stream, duplicates counted."""
        codes = self._codes.setdefault(field, Numbering()).of(values).astype(np.int32)
        self._parts.setdefault(field, []).append(codes)

    def columns(self) -> dict[str, GroupColumn]:
        """Give the fields that were taken."""
        return {
            field: GroupColumn(tuple(self._codes[field]), np.concatenate(parts))
            for field, parts in self._parts.items()
        }


@dataclass(frozen=True, slots=True)
class ScenarioRecall:
    """How many frauds of one kind a model finds.

    Parameters
    ----------
    caught_in_top
        Among as many of the highest scores as there are frauds in all.
    caught
        At or above the threshold for a review.
    """

    model: str
    scenario: str
    frauds: int
    caught_in_top: int
    recall_in_top: Interval | None
    caught: int
    recall: Interval | None


@dataclass(frozen=True, slots=True)
class Segment:
    """What the champion's thresholds do to one part of the events.

    Alerts are reviews and declines. Precision, recall, the false-positive rate (alerts among the
    genuine) and the decline rate are counts here, beside their 95 % intervals.

    Parameters
    ----------
    genuine_alerted
        Genuine events that were reviewed or declined.
    differs
        Whether the whole's false-positive rate lies outside of the segment's interval: genuine
        customers of this segment are treated otherwise than the rest.
    """

    field: str
    name: str
    events: int
    frauds: int
    alerts: int
    caught: int
    declined: int
    genuine_alerted: int
    precision: Interval | None
    recall: Interval | None
    false_positive_rate: Interval | None
    decline_rate: Interval | None
    differs: bool


def scenario_recalls(
    model: str, scores: Floats, is_fraud: Bools, scenario: GroupColumn, *, review_score_min: float
) -> Iterator[ScenarioRecall]:
    """Say of each kind of fraud how much of it is found."""
    top = in_top(scores, top=int(is_fraud.sum())) & is_fraud
    caught = (scores >= review_score_min) & is_fraud
    for number, name in sorted(enumerate(scenario.names), key=lambda item: item[1]):
        inside = (scenario.code == number) & is_fraud
        frauds = int(inside.sum())
        if frauds:
            counts = int((top & inside).sum()), int((caught & inside).sum())
            yield ScenarioRecall(
                model, name, frauds,
                counts[0], wilson(counts[0], frauds), counts[1], wilson(counts[1], frauds),
            )  # fmt: skip


def segments(
    field: str, column: GroupColumn, is_fraud: Bools, *, alerted: Bools, declined: Bools
) -> Iterator[Segment]:
    """Judge the parts of the events by one field, the largest first."""
    genuine = ~is_fraud
    usual = int((alerted & genuine).sum()) / max(1, int(genuine.sum()))
    counts = np.bincount(column.code, minlength=len(column.names))
    order = np.argsort(-counts, kind="stable")
    shown = [number for number in order[:SEGMENTS_MAX].tolist() if counts[number]]
    for number in shown:
        inside = column.code == number
        yield _segment(field, column.names[number], inside, is_fraud, alerted, declined, usual)
    rest = ~np.isin(column.code, shown)
    if rest.any():
        yield _segment(field, OTHERS, rest, is_fraud, alerted, declined, usual)


def _segment(
    field: str, name: str, inside: Bools, is_fraud: Bools, alerted: Bools, declined: Bools,
    usual: float,
) -> Segment:  # fmt: skip
    events, frauds = int(inside.sum()), int((inside & is_fraud).sum())
    alerts, caught = int((inside & alerted).sum()), int((inside & alerted & is_fraud).sum())
    stopped = int((inside & declined).sum())
    false_positives = wilson(alerts - caught, events - frauds)
    return Segment(
        field=field,
        name=name,
        events=events,
        frauds=frauds,
        alerts=alerts,
        caught=caught,
        declined=stopped,
        genuine_alerted=alerts - caught,
        precision=wilson(caught, alerts),
        recall=wilson(caught, frauds),
        false_positive_rate=false_positives,
        decline_rate=wilson(stopped, events),
        differs=false_positives is not None
        and not false_positives.low <= usual <= false_positives.high,
    )

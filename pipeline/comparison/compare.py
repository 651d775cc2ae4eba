"""The comparison of what we decided with what the incumbent did, from the columns of both.

Three ways to stop events are looked at. `acted`: what both truly did. `equal_budget`: each day we
may stop as many events as the incumbent did, by our score, and decline as many as it declined.
`top_k`: both stop the `k` highest scores of each day, where the incumbent has a score. Where it has
scores alone, the last is the equal budget.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.actions import ACTIONS
from pipeline.comparison.columns import ComparisonColumns
from pipeline.comparison.parts import Contest, Marks, Part, drawn_days, interval_of
from pipeline.durations import DAY_MS
from pipeline.errors import DataError
from pipeline.mistakes import Costs
from pipeline.quality.budget import ALERT_RATE, ALERTS_A_DAY, in_budget
from pipeline.quality.groups import OTHERS, SEGMENTS_MAX
from pipeline.quality.intervals import DAYS_MIN, RANKING, Interval, ranked
from pipeline.quality.ranking import average_precision, roc_auc

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

APPROVE, DECLINE = ACTIONS.index("approve"), ACTIONS.index("decline")
# A Monday, so that weeks are calendar weeks.
MONDAY_MS = 4 * DAY_MS
WEEK_MS = 7 * DAY_MS


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well the scores order the labelled events that both systems scored.

    The intervals are of the differences, ours less theirs, from drawing days.
    """

    events: int
    frauds: int
    our_auc: float | None
    their_auc: float | None
    our_average_precision: float | None
    their_average_precision: float | None
    auc_difference: Interval | None
    average_precision_difference: Interval | None


@dataclass(frozen=True, slots=True)
class Week:
    """A calendar week at equal budget."""

    start_ms: int
    part: Part


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """The events with one value of a field, at equal budget."""

    field: str
    part: Part


@dataclass(frozen=True, slots=True)
class Hidden:
    """Money of the events that the incumbent declined and that have no label, in minor units."""

    minor: int
    we_stop: int
    we_stop_minor: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was found; money is in minor units.

    Parameters
    ----------
    decisions
        Of the period, each once; `without_incumbent` of them say nothing of it.
    their_declines, their_declines_unlabelled
        How many events the incumbent blocked, and of how many nobody knows what they were.
    hidden
        The latter: their money, and what of them we would have stopped at equal budget.
    """

    first_ms: int
    last_ms: int
    decisions: int
    without_incumbent: int
    unread: dict[str, int]
    currencies: tuple[str, ...]
    their_declines: int
    their_declines_unlabelled: int
    hidden: Hidden
    k: int
    acted: Part | None
    equal_budget: Part
    top_k: Part | None
    ranking: Ranking | None
    weeks: tuple[Week, ...]
    segments: tuple[SegmentPart, ...]


def compare(columns: ComparisonColumns, costs: Costs, *, k: int = ALERTS_A_DAY) -> Comparison:
    """Compare; `k` alerts a day are looked at where scores alone decide.

    Raises
    ------
    DataError
        Where no decision says what an incumbent thought or did.
    """
    acts, scores = columns.their_action >= 0, ~np.isnan(columns.their_score)
    _check(columns, acts | scores)
    _, day = np.unique(columns.event_time_ms // DAY_MS, return_inverse=True)
    acted = budget = top = None
    if acts.any():
        acted = Contest(columns, acts, we=_ours(columns), they=_theirs(columns), costs=costs)
        budget = Contest(
            columns, acts, we=_budgeted(columns, acts, day), they=_theirs(columns), costs=costs
        )
    if scores.any():
        marks = [_top(given, scores, day, k) for given in (columns.score, columns.their_score)]
        top = Contest(columns, scores, we=marks[0], they=marks[1], costs=costs)
    main = budget or top
    assert main is not None
    declined = columns.their_action == DECLINE
    hidden = declined & (columns.label < 0)
    return Comparison(
        first_ms=int(columns.event_time_ms.min()),
        last_ms=int(columns.event_time_ms.max()),
        decisions=len(columns),
        without_incumbent=int((~(acts | scores)).sum()),
        unread=columns.unread,
        currencies=columns.currencies,
        their_declines=int(declined.sum()),
        their_declines_unlabelled=int(hidden.sum()),
        hidden=_hidden(columns.amount_minor, hidden, main.alerted_by_us),
        k=k,
        acted=acted.part("as acted") if acted else None,
        equal_budget=main.part("at equal budget"),
        top_k=top.part(f"top {k} a day") if top else None,
        ranking=_ranking(columns, scores & (columns.label >= 0)) if scores.any() else None,
        weeks=tuple(_weeks(main, columns)),
        segments=tuple(_segments(main, columns)),
    )


def _hidden(amount_minor: Ints, hidden: Bools, stopped: Bools) -> Hidden:
    return Hidden(
        minor=int(amount_minor[hidden].sum()),
        we_stop=int((hidden & stopped).sum()),
        we_stop_minor=int(amount_minor[hidden & stopped].sum()),
    )


def _check(columns: ComparisonColumns, said: Bools) -> None:
    if not len(columns):
        raise DataError("there is no decision of this period: there is nothing to compare")
    if not said.any():
        unread = sum(columns.unread.values())
        why = (
            f"{unread:,} values of it could not be read: see scale and actions of [incumbent]"
            if unread
            else "name its fields in [incumbent] of the schema, and publish events that have them"
        )
        raise DataError(
            f"none of {len(columns):,} decisions says what an incumbent thought or did: {why} "
            "(docs/compare.md)"
        )


def _ours(columns: ComparisonColumns) -> Marks:
    return Marks(columns.action != APPROVE, columns.action == DECLINE)


def _theirs(columns: ComparisonColumns) -> Marks:
    return Marks(columns.their_action > APPROVE, columns.their_action == DECLINE)


def _budgeted(columns: ComparisonColumns, rows: Bools, day: Ints) -> Marks:
    """Stop as many events of each day as the incumbent, those with our highest scores."""
    theirs, inside = _theirs(columns), np.flatnonzero(rows)
    days = int(day.max()) + 1

    def top(stopped: Bools) -> Bools:
        budget = np.bincount(day[stopped & rows], minlength=days)
        marked = np.zeros(len(columns), np.bool_)
        marked[inside] = in_budget(columns.score[inside], day[inside], a_day=budget)
        return marked

    return Marks(top(theirs.alerted), top(theirs.declined))


def _top(given: NDArray[np.float64], rows: Bools, day: Ints, k: int) -> Marks:
    inside = np.flatnonzero(rows)
    marked = np.zeros(len(given), np.bool_)
    marked[inside] = in_budget(given[inside], day[inside], a_day=k)
    return Marks(marked, np.zeros(len(given), np.bool_))


def _ranking(columns: ComparisonColumns, rows: Bools) -> Ranking:
    fraud = columns.label[rows] == 1
    ours, theirs = columns.score[rows], columns.their_score[rows]
    days, day = np.unique(columns.event_time_ms[rows] // DAY_MS, return_inverse=True)
    differences: dict[str, Interval | None] = {}
    if len(days) >= DAYS_MIN and fraud.any() and not fraud.all():
        drawn = drawn_days(len(days))
        found = []
        for given in (ours, theirs):
            order = np.argsort(-given, kind="stable")
            out = np.empty((len(drawn), len(RANKING)))
            ranked(given[order], fraud[order], day[order], drawn, ALERT_RATE, out)
            found.append(out)
        differences = {
            name: interval_of(found[0][:, place] - found[1][:, place])
            for place, name in enumerate(RANKING)
        }
    return Ranking(
        events=int(rows.sum()),
        frauds=int(fraud.sum()),
        our_auc=roc_auc(ours, fraud),
        their_auc=roc_auc(theirs, fraud),
        our_average_precision=average_precision(ours, fraud),
        their_average_precision=average_precision(theirs, fraud),
        auc_difference=differences.get("roc_auc"),
        average_precision_difference=differences.get("average_precision"),
    )


def _weeks(main: Contest, columns: ComparisonColumns) -> Iterator[Week]:
    number = (columns.event_time_ms - MONDAY_MS) // WEEK_MS
    for week in np.unique(number).tolist():
        start_ms = week * WEEK_MS + MONDAY_MS
        yield Week(start_ms, main.part(str(np.datetime64(start_ms, "ms"))[:10], number == week))


def _segments(main: Contest, columns: ComparisonColumns) -> Iterator[SegmentPart]:
    """Compare by the values of each field, the most frequent first; the rest are one part."""
    for field, column in columns.segments.items():
        counts = np.bincount(column.code, minlength=len(column.names))
        order = np.argsort(-counts, kind="stable")[:SEGMENTS_MAX]
        shown = [number for number in order.tolist() if counts[number]]
        for number in shown:
            yield SegmentPart(field, main.part(column.names[number], column.code == number))
        rest = ~np.isin(column.code, shown)
        if rest.any():
            yield SegmentPart(field, main.part(OTHERS, rest))

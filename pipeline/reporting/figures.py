"""A figure of a report: a plot, how to read it, what it says in words, and its numbers.

The words and the table are the plot for those who do not see it, and where scripts are off. A
figure without data has no plot, and says why. `quality.py` and `stream.py` make them.
"""

from dataclasses import dataclass

from pipeline.reporting.drawing import BAR_GAP_SHARE, Frame, Row, Spec
from pipeline.reporting.values import Report
from pipeline.reporting.words import STRETCH_NAMES, Table

# A number that stands on fewer frauds is mostly chance: its point is drawn hollow.
FRAUDS_FEW = 10
NO_LABELS = ("No event of the measured period has a label.",)


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot with its words; `plot` is `None` where there is nothing to draw."""

    key: str
    title: str
    reading: str
    says: tuple[str, ...]
    table: Table
    plot: Spec | None
    wide: bool = False


def frame_of(report: Report, stretch_ms: int | None = None) -> Frame:
    """Give what all plots over time of a report have in common."""
    size = stretch_ms or report.stretch_ms
    if not report.stretches:
        return Frame((0, size), STRETCH_NAMES[size], models_of(report))
    domain = (
        min(item.start_ms for item in report.stretches),
        max(item.end_ms for item in report.stretches),
    )
    facts = report.facts
    ends = ((facts.start_ms, "measured from here"), (facts.end_ms, "measured to here"))
    marks: tuple[Row, ...] = tuple(
        {"start_ms": moment, "text": text}
        for moment, text in ends
        if moment is not None and domain[0] < moment < domain[1]
    )
    return Frame(domain, STRETCH_NAMES[size], models_of(report), marks)


def models_of(report: Report) -> tuple[str, ...]:
    """Name the models, the champion first."""
    return tuple(name for name, _ in report.facts.models)


def bar_end(start_ms: int, size_ms: int) -> int:
    """Give where the bar of a stretch ends, a small gap before the next."""
    return start_ms + int(size_ms * (1 - BAR_GAP_SHARE))

"""The tables of docs/benchmarks.md, made from the results; the words around them are in the file.

What lies between two markers is replaced, so that text and figures can be edited apart.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.documents import markdown, put_tables
from benchmarks.quality.measures import MEASURES
from benchmarks.quality.results import Results
from benchmarks.quality.rows import DELAY, OTHER_STREAMS, Row, all_rows
from models import MODELS

Record = dict[str, Any]
Shown = tuple[Row, Record]
STREAMS = ("handbook", *OTHER_STREAMS)
NOT_MADE = "not made yet"


def write_document(path: Path, results: Results) -> None:
    """Put the tables of what is done between the markers of a document."""
    put_tables(path, tables(results))


def tables(results: Results) -> Iterator[tuple[str, str]]:
    """Give each table by its name."""
    rows = all_rows()
    done = [(row, record["result"]) for row in rows if (record := results.load(row.name))]

    def of(wanted: Callable[[Row], bool]) -> list[Shown]:
        return [(row, record) for row, record in done if wanted(row)]

    for stream in STREAMS:
        yield stream, quality_table([each for each in done if _is_main(each[0], stream)])
    yield "delays", quality_table(of(lambda row: row.delay_days != DELAY))
    yield "recovery", recovery_table(of(lambda row: row.stream == "drift"))
    yield "loop", loop_table(of(lambda row: row.kind == "loop"))
    yield "cost", cost_table(done)
    yield "losses", loss_list(done)


def _is_main(row: Row, stream: str) -> bool:
    return row.stream == stream and row.delay_days == DELAY and row.kind in FEATURES


# Of which rows the quality is compared, and on which features they are.
FEATURES = {"replay": "our own", "own": "our own", "loop": "our own", "handbook": "Handbook's 15"}


def quality_table(shown: list[Shown]) -> str:
    """Show rows by average precision, the best first."""
    if not shown:
        return f"{NOT_MADE}\n"
    shown = sorted(shown, key=lambda item: -(item[1].get("average_precision") or 0.0))
    columns = [
        each for each in MEASURES if any(record.get(each[0]) is not None for _, record in shown)
    ]
    head = ["model", "features", "delay, days", *(heading for _, heading, _ in columns)]
    lines = [
        [
            row.title,
            FEATURES[row.kind],
            str(row.delay_days),
            *(_cell(record, *each) for each in columns),
        ]
        for row, record in shown
    ]
    return markdown(head, lines)


def recovery_table(shown: list[Shown]) -> str:
    """Show how each model came through the change, the least excess first."""
    if not shown:
        return f"{NOT_MADE}\n"
    found = sorted(
        ((row, record["recovery"]) for row, record in shown),
        key=lambda item: float(item[1]["excess_log_loss_days"]),
    )
    head = [
        "model", "log loss, 28 days before", "28 days after", "excess, summed over days",
        "days to recover", "labels of the new time by then",
    ]  # fmt: skip
    lines = [
        [
            row.title,
            f"{each['level_before']:.4f}",
            f"{each['log_loss_after']:.4f}",
            f"{each['excess_log_loss_days']:.3f}",
            "never" if each["days_to_recover"] is None else str(each["days_to_recover"]),
            f"{each['labels_to_recover']:,}" if "labels_to_recover" in each else "-",
        ]
        for row, each in found
    ]
    return markdown(head, lines)


def loop_table(shown: list[Shown]) -> str:
    """Show what decisions were worth in the closed loop, the most value first."""
    if not shown:
        return f"{NOT_MADE}\n"
    head = [
        "model", "value detected", "frauds", "declined", "found by review", "missed",
        "genuine declined", "reviewed", "AP of all events",
    ]  # fmt: skip
    names = ("frauds", "frauds_declined", "frauds_reviewed", "frauds_missed", "false_declines")
    lines = [
        [
            row.title,
            _cell(record, "value_detected", "", "{:.3f}"),
            *(f"{record[name]:,}" for name in (*names, "alerts_reviewed")),
            _cell(record, "average_precision", "", "{:.3f}"),
        ]
        for row, record in sorted(shown, key=lambda item: -(item[1]["value_detected"] or 0.0))
    ]
    return markdown(head, lines)


def cost_table(done: list[Shown]) -> str:
    """Show what scoring and learning cost, beside the daily trees."""
    cost = next((record for row, record in done if row.kind == "cost"), None)
    if cost is None:
        return f"{NOT_MADE}\n"
    steps = [[name, f"{each:.2f}"] for name, each in cost["us_per_event"].items()]
    steps.append(["all", f"{sum(cost['us_per_event'].values()):.2f}"])
    text = markdown(["step of `additive`", "µs an event"], steps)
    text += f"\n{cost['events_per_second']:,.0f} events/s on one core, features included; "
    text += f"{cost['cpu_seconds']:,.0f} s for the whole stream.\n"
    for row, record in done:
        if row.model == "lightgbm-daily-30d" and row.stream == "handbook":
            ratio = record["cpu_seconds"] / cost["cpu_seconds"]
            text += f"LightGBM refitted daily on 30 days, on {FEATURES[row.kind]} features: "
            text += f"{record['cpu_seconds']:,.0f} s, {ratio:,.1f} times as much.\n"
    return text


# Which way is better: up or down.
COMPARED = (
    ("value_detected", "value detected", 1),
    ("average_precision", "average precision", 1),
    ("log_loss", "log loss", -1),
    ("card_precision_top_100", "card precision top-100", 1),
    ("cpu_seconds", "CPU seconds", -1),
)


def loss_list(done: list[Shown]) -> str:
    """Name each stream, delay and measure by which a rival is ahead of one of ours."""
    lines = [
        f"- {place}, {heading}: {rival[1]} {rival[0]:.4g}; ours: {', '.join(ours)}."
        for place, shown in _places(done)
        for name, heading, better in COMPARED
        for rival, ours in _ahead(shown, name, better)
    ]
    if not any(row.model in MODELS and row.kind in FEATURES for row, _ in done):
        return f"{NOT_MADE}\n"
    return "\n".join(lines or ["- Nowhere among the rows that are done."]) + "\n"


def _places(done: list[Shown]) -> Iterator[tuple[str, list[Shown]]]:
    """Give the rows that may be compared with each other, and what they have in common."""
    for stream, delay in dict.fromkeys((row.stream, row.delay_days) for row, _ in done):
        # The forest saw half of the Handbook's stream, so its figures are of another period.
        shown = [
            (row, record)
            for row, record in done
            if (row.stream, row.delay_days) == (stream, delay)
            and row.kind in FEATURES
            and (row.model, row.stream) != ("forest", "handbook")
        ]
        yield f"{stream}, labels after {delay} days" if delay != DELAY else stream, shown


def _ahead(
    shown: list[Shown], name: str, better: int
) -> Iterator[tuple[tuple[float, str], list[str]]]:
    """Give the best rival, and those of ours that it is ahead of, if there are any."""
    of = [(row, float(record[name])) for row, record in shown if record.get(name) is not None]
    rivals = [
        (value, f"{row.title} ({FEATURES[row.kind]} features)")
        for row, value in of
        if row.model not in MODELS
    ]
    if not rivals:
        return
    best = max(rivals, key=lambda each: better * each[0])
    behind = [
        f"{row.title} {value:.4g}"
        for row, value in of
        if row.model in MODELS and better * (best[0] - value) > 0
    ]
    if behind:
        yield best, behind


def _cell(record: Record, name: str, _: str, form: str) -> str:
    value = record.get(name)
    return "-" if value is None else form.format(value)

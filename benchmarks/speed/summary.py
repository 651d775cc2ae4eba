"""The tables of `docs/benchmarks.md` that are made from the results of `make bench`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.documents import DOCS, markdown, put_tables
from benchmarks.machine import as_text
from benchmarks.speed.results import RATIOS, Results, middle, spread

DOCUMENT = DOCS / "benchmarks.md"
NOTHING = "not measured"


def write_document(found: Results, titles: Mapping[str, str], path: Path = DOCUMENT) -> None:
    """Put the tables of speed into the document."""
    rows = found["rows"]
    put_tables(
        path,
        [
            ("speed", _about(found) + _throughput(rows, titles)),
            ("speed-ratios", _ratios(rows, titles)),
            ("speed-latency", _latency(rows)),
            ("speed-others", _others(found["figures"])),
            ("speed-cost", _cost(rows)),
        ],
    )


def _about(found: Results) -> str:
    about: dict[str, Any] = next((row["about"] for row in found["rows"].values()), {})
    failed = "".join(f"\nNot measured, since it failed: `{name}`." for name in found["failed"])
    return (
        f"{as_text(found['machine'])}; {about.get('cores', '')}; {about.get('events', 0):,} events "
        f"of {about.get('cards', 0):,} cards and {about.get('terminals', 0):,} terminals, "
        f"{about.get('bytes_per_event', 0):.0f} bytes each, {about.get('partitions', 0)} "
        f"partitions.{failed}\n\n"
    )


def _throughput(rows: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    names = ["worker", *RATIOS.values(), "replay", "replay-handbook", "trainer"]
    lines = [
        [
            titles[name],
            ranged(rows, name, "events_per_second"),
            ranged(rows, name, "events_per_cpu_second"),
            plain(middle(rows, name, "worker_cpu_us"), 1),
            plain(middle(rows, name, "worker_peak_mb"), 0),
        ]
        for name in names
        if name in rows
    ]
    head = ["", "events/s", "events per CPU second", "CPU µs an event", "peak MB"]
    return markdown(head, lines)


def _ratios(rows: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    lines = []
    for other in RATIOS.values():
        if other not in rows or "worker" not in rows:
            continue
        ratios = [
            _over(middle(rows, "worker", name), middle(rows, other, name))
            for name in ("events_per_second", "events_per_cpu_second")
        ]
        lines.append([titles[other], *ratios])
    return markdown(["our worker beside", "events/s", "events per CPU second"], lines)


def _over(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours and theirs else NOTHING


def _latency(rows: Mapping[str, Any]) -> str:
    figures = ("p50_ms", "p95_ms", "p99_ms", "p99_9_ms", "max_ms")
    lines = [
        [name.removeprefix("latency-"), *(ranged(rows, name, figure, 1) for figure in figures)]
        for name in rows
        if name.startswith("latency-")
    ]
    lines.sort(key=lambda line: _number(line[0]))
    return markdown(["events/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "most ms"], lines)


def _number(words: str) -> int:
    return int(words.replace("k", "000"))


OTHERS = {
    "cold_start_seconds": ("cold start to the first decision, kernels compiled, s", 1),
    "warm_start_seconds": ("warm start to the first decision, s", 1),
    "mb_per_100k_cards_worker": ("100,000 cards more in a worker, MB", 1),
    "mb_per_100k_cards_redis": ("100,000 cards more in Redis, MB", 1),
    "guarantee_share_at_500": ("share of throughput that the guarantee costs, batches of 500", 2),
    "publisher_events_per_second": ("`fraudstream publish`, events/s", 0),
    "simulator_events_per_second": ("simulator alone, events/s", 0),
}


def _others(figures: Mapping[str, float | None]) -> str:
    lines = [[words, plain(figures.get(name), digits)] for name, (words, digits) in OTHERS.items()]
    return markdown(["", ""], lines)


COSTS = {
    "worker_cpu_us": "worker",
    "redis_cpu_us": "Redis",
    "kafka_cpu_us": "Kafka",
    "trainer_cpu_us": "trainer",
}


def _cost(rows: Mapping[str, Any]) -> str:
    lines = [
        [words, ranged(rows, "worker", name, 1)]
        for name, words in COSTS.items()
        if middle(rows, "worker", name) is not None
    ]
    return markdown(["beside our worker", "CPU µs an event"], lines)


def ranged(rows: Mapping[str, Any], row: str, name: str, digits: int = 0) -> str:
    """Give a median with its range."""
    values: Sequence[float] = spread(rows, row, name)
    if not values:
        return NOTHING
    text = plain(middle(rows, row, name), digits)
    if len(values) == 1:
        return text
    return f"{text} ({values[0]:,.{digits}f}..{values[-1]:,.{digits}f})"


def plain(value: float | None, digits: int) -> str:
    """Write a figure that may be missing."""
    return NOTHING if value is None else f"{value:,.{digits}f}"

"""The results file: what each row gave in each round, and the figures that are asked for.

Rows are replaced one by one, so that a run of some rows leaves the others as they were.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import machine
from benchmarks.speed.bench import Found
from benchmarks.speed.latency import QUANTILES, SECONDS, rate_words

RESULT = Path(__file__).parents[1] / "results" / "speed.json"
Results = dict[str, Any]

# Each figure of the answer, with the row and the name it has there.
FIGURES = {
    "worker_events_per_second": ("worker", "events_per_second"),
    "worker_events_per_second_with_labels": ("worker", "events_per_second_with_labels"),
    "worker_events_per_cpu_second": ("worker", "events_per_cpu_second"),
    "worker_cpu_us_per_event": ("worker", "worker_cpu_us"),
    "redis_cpu_us_per_event": ("worker", "redis_cpu_us"),
    "worker_peak_mb": ("worker", "worker_peak_mb"),
    "replay_events_per_second": ("replay-handbook", "events_per_second"),
    "replay_peak_mb": ("replay-handbook", "worker_peak_mb"),
    "replay_simulated_events_per_second": ("replay", "events_per_second"),
    "trainer_labels_per_second": ("trainer", "events_per_second"),
    "trainer_labels_per_cpu_second": ("trainer", "events_per_cpu_second"),
    "cold_start_seconds": ("start", "cold_start_seconds"),
    "warm_start_seconds": ("start", "warm_start_seconds"),
    "mb_per_100k_cards_worker": ("memory", "worker_mb"),
    "mb_per_100k_cards_redis": ("memory", "redis_mb"),
    "guarantee_share_at_500": ("guarantee", "share_at_500"),
    "publisher_events_per_second": ("publisher", "events_per_second"),
    "simulator_events_per_second": ("simulator", "events_per_second"),
} | {
    f"{name}_ms_at_{rate_words(rate)}": (f"latency-{rate_words(rate)}", f"{name}_ms")
    for rate in SECONDS
    for name in QUANTILES
}
# Our events a second over those of another row, by the wall and by the processor.
RATIOS = {
    "ratio_naive_faust": "naive-faust",
    "ratio_quix_at_least_once": "quix-at-least-once",
    "ratio_quix_exactly_once": "quix-exactly-once",
    "ratio_plain_loop": "plain-loop",
    "ratio_river": "river",
}
CPU = "_by_cpu"


def load(path: Path) -> Results:
    """Give what is kept; nothing where there is no file, or one of another machine."""
    if not path.is_file():
        return {}
    found: Results = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("machine") == rounded(machine()) else {}


def committed(path: Path) -> Results:
    """Give what the last commit holds of the file, of whatever machine."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:./{path.name}"],
        cwd=path.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: Results = json.loads(shown.stdout) if not shown.returncode else {}
    return found


def kept(
    before: Results,
    about: Mapping[str, Any],
    rounds: Mapping[str, Sequence[Found]],
    failed: Mapping[str, str],
) -> Results:
    """Put the rows of a run over those that were kept."""  # fmt: skip
    rows: dict[str, Any] = {
        name: row for name, row in before.get("rows", {}).items() if name not in failed
    }
    for name, found in rounds.items():
        rows[name] = {"about": dict(about), "rounds": list(found)}
    all_failed = {name: why for name, why in before.get("failed", {}).items() if name not in rows}
    whole = {"machine": machine(), "figures": figures(rows), "rows": rows}
    result: Results = rounded(whole | {"failed": all_failed | dict(failed)})
    return result


def save(path: Path, found: Results) -> None:
    """Write the file; it appears when it is whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def middle(rows: Mapping[str, Any], row: str, name: str) -> float | None:
    """Give the median of a figure over a row's rounds; `None` where there is none."""
    values = spread(rows, row, name)
    return median(values) if values else None


def spread(rows: Mapping[str, Any], row: str, name: str) -> list[float]:
    """Give a figure's values in all rounds, smallest first."""
    rounds = rows.get(row, {"rounds": []})["rounds"]
    return sorted(found[name] for found in rounds if name in found)


def figures(rows: Mapping[str, Any]) -> dict[str, float | None]:
    """Give the figures that are asked for.

    >>> rows = {"worker": {"rounds": [{"events_per_second": 30.0}, {"events_per_second": 50.0}]},
    ...     "naive-faust": {"rounds": [{"events_per_second": 4.0}]}}
    >>> found = figures(rows)
    >>> found["worker_events_per_second"], found["ratio_naive_faust"], found["ratio_plain_loop"]
    (40.0, 10.0, None)
    """
    given = {name: middle(rows, row, figure) for name, (row, figure) in FIGURES.items()}
    for name, other in RATIOS.items():
        for suffix, figure in (("", "events_per_second"), (CPU, "events_per_cpu_second")):
            ours, theirs = middle(rows, "worker", figure), middle(rows, other, figure)
            given[name + suffix] = ours / theirs if ours and theirs else None
    return given


def rounded(found: Any) -> Any:
    """Keep four significant digits: the others are noise."""
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    if isinstance(found, list):
        return [rounded(value) for value in found]
    if isinstance(found, float):
        return float(f"{found:.4g}")
    return found

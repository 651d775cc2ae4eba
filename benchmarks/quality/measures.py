"""Which numbers a row gives and how a table shows them: the one place where measures are named.

What `pipeline.evaluation.Quality` has beyond these stands in a row's JSON all the same.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.tables import Truth
from pipeline.evaluation import evaluate

# Name, heading, form. A table has those columns that a row of it has a number for.
MEASURES = (
    ("average_precision", "AP", "{:.3f}"),
    ("roc_auc", "AUC", "{:.3f}"),
    ("card_precision_top_100", "CP@100", "{:.3f}"),
    ("card_precision_handbook", "CP@100 Handbook", "{:.3f}"),
    ("log_loss", "log loss", "{:.4f}"),
    ("brier", "Brier", "{:.4f}"),
    ("calibration_error", "calibration error", "{:.4f}"),
    ("recall_at_budget", "recall, 100 a day", "{:.3f}"),
    ("value_detection_rate", "value, 100 a day", "{:.3f}"),
    ("value_detected", "value detected", "{:.3f}"),
    ("cpu_seconds", "CPU s", "{:,.0f}"),
    ("memory_mb", "memory MB", "{:,.0f}"),
)


def measure(
    scores: NDArray[np.float64], truth: Truth, judged_ms: tuple[int, int]
) -> dict[str, Any]:
    """Judge scores on the labelled events of a period; scores may end before the stream does."""
    stop = len(scores)
    known = {name: column[:stop] for name, column in truth.columns().items()}
    fraud, times = known["is_fraud"], known["event_time_ms"]
    judged = (fraud >= 0) & (times >= judged_ms[0]) & (times < judged_ms[1])
    found = evaluate(
        scores[judged],
        fraud[judged] == 1,
        event_time_ms=times[judged],
        card=known["card"][judged],
        amount_minor=known["amount_minor"][judged],
        frauds_known=(times[fraud == 1], known["card"][fraud == 1]),
    )
    return asdict(found)

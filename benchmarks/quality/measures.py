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
    ("log_loss", "log loss", "{:.4f}"),
    ("brier", "Brier", "{:.4f}"),
    ("calibration_error", "calibration error", "{:.4f}"),
    ("value_detected", "value detected", "{:.3f}"),
    ("cpu_seconds", "CPU s", "{:,.0f}"),
    ("memory_mb", "memory MB", "{:,.0f}"),
)


def measure(
    scores: NDArray[np.float64], truth: Truth, judged_ms: tuple[int, int]
) -> dict[str, Any]:
    """Judge scores on the labelled events of a period; scores may end before the stream does."""
    stop = len(scores)
    fraud, times, cards = truth.is_fraud[:stop], truth.event_time_ms[:stop], truth.card[:stop]
    judged = (fraud >= 0) & (times >= judged_ms[0]) & (times < judged_ms[1])
    found = evaluate(
        scores[judged], fraud[judged] == 1, event_time_ms=times[judged], card=cards[judged]
    )
    return asdict(found)

"""The learning curve: how good scores were by how many labels had been learned.

The first labels teach most, so the steps grow: 100, 200, 500, 1,000 and so on. Where the curve is
still rising at its end, more labels or a longer memory would help; where it is flat, better
features would.

>>> scores, is_fraud = np.array([0.5, 0.5, 0.1, 0.9]), np.array([True, False, False, True])
>>> [(step.labels_from, step.average_precision)
...  for step in learning_curve("m", scores, is_fraud, np.array([0, 0, 150, 150]))]
[(0, 0.5), (100, 1.0)]
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import log_losses
from pipeline.quality.ranking import average_precision

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STEPS = (0, *(digit * 10**power for power in range(2, 9) for digit in (1, 2, 5)))


@dataclass(frozen=True, slots=True)
class LearningStep:
    """The quality of scores that were given after so many labels, up to the next step."""

    model: str
    labels_from: int
    labels_mean: float
    events: int
    frauds: int
    average_precision: float | None
    log_loss: float


def learning_curve(
    model: str, scores: Floats, is_fraud: Bools, labels_known: NDArray[np.int32]
) -> Iterator[LearningStep]:
    """Judge events by how many labels were known when they were scored."""
    code = np.searchsorted(STEPS, labels_known, side="right").astype(np.int8) - np.int8(1)
    for place in np.unique(code).tolist():
        inside = code == place
        yield LearningStep(
            model=model,
            labels_from=STEPS[place],
            labels_mean=float(labels_known[inside].mean()),
            events=int(inside.sum()),
            frauds=int(is_fraud[inside].sum()),
            average_precision=average_precision(scores[inside], is_fraud[inside]),
            log_loss=float(log_losses(scores[inside], is_fraud[inside]).mean()),
        )

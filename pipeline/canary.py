"""The canary: a version scores made-up events before it decides real ones.

They are made from the list of features alone: ordinary values, everything missing, zeros and
extremes. A version that cannot score them, or gives what is no probability, is never adopted.
"""

import numpy as np
from numpy.typing import NDArray

from models.contract import Model
from pipeline.errors import SnapshotError
from pipeline.features import FeatureKernel

SEED = 11
ORDINARY_ROWS = 24
REASONS_EVERY = 6
EXTREMES = (0.0, 1.0, -1.0, 1e6, -1e6, 1e30, -1e30)


def canary_rows(kernel: FeatureKernel) -> NDArray[np.float32]:
    """Give the made-up events, always the same for the same features."""
    width = len(kernel.names)
    chance = np.random.default_rng(SEED)
    ordinary = chance.lognormal(0.0, 2.0, (ORDINARY_ROWS, width))
    ordinary[chance.random(ordinary.shape) < 0.1] = np.nan  # noqa: PLR2004
    fixed = [np.full((1, width), value) for value in (*EXTREMES, np.nan)]
    return np.concatenate([ordinary, *fixed]).astype(np.float32)


def check_canary(model: Model, rows: NDArray[np.float32]) -> None:
    """Refuse a model whose scores of these events are no probabilities."""
    try:
        # Reasons cost far more than scores where a model has to be asked for each feature.
        scored = model.score(rows[::REASONS_EVERY])
        alone = model.scores(rows)
    # A state that nobody expected can fail in any way there is.
    except Exception as error:
        raise SnapshotError(
            f"snapshot: it must score the canary (got {type(error).__name__}: {error})", "canary"
        ) from error
    for scores in (scored.scores, alone):
        bad = ~((scores >= 0.0) & (scores <= 1.0))
        if bad.any():
            raise SnapshotError(
                f"snapshot: its scores must be 0 to 1 (got {scores[bad][0]} for the canary)",
                "canary",
            )
    if not np.isfinite(scored.contributions).all():
        raise SnapshotError("snapshot: its reasons must be numbers (got NaN or infinity)", "canary")

"""What the naive rivals have in common: three features, and River's first model.

The label is learned at once, as River's documentation does. Events hold none, so the Handbook's
first scenario (an amount beyond 220) stands for it: it costs a comparison.
"""

from collections.abc import Mapping
from typing import Any

from river import compose, linear_model, preprocessing

HOUR_MS = 3_600_000
LARGE_AMOUNT = 220.0
FRAUD_SCORE_MIN = 0.5


class Naive:
    """Scores an event and learns it."""

    def __init__(self) -> None:
        self.model = compose.Pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression()
        )

    def score(self, amount: float, event_time: int, count: int) -> float:
        """Give the probability of fraud, then learn."""
        x = {"amount": amount, "count": count, "hour": event_time // HOUR_MS % 24}
        score = self.model.predict_proba_one(x).get(True, 0.0)
        self.model.learn_one(x, amount > LARGE_AMOUNT)
        return float(score)


def decision(event: Mapping[str, Any], score: float) -> dict[str, Any]:
    """Give what is sent of an event."""
    return {
        "transaction_id": event["transaction_id"],
        "score": score,
        "fraud": score > FRAUD_SCORE_MIN,
    }

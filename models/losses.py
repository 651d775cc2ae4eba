"""What a mistake costs while learning, and how a score becomes a probability again.

A model has log-odds; a loss says how far each example moves them. Squared loss aims at
probabilities as log loss does. Weighted frauds (`fraud_weight`), a focal loss or costs by amount
(`cost`) do not: each learns more where it matters and would give scores that no longer are
probabilities. How far they are off is known exactly, so that it is taken back:

- *weights*: if a fraud weighs w times a genuine event, the best log-odds are log w too high
  (Elkan). The log-odds of a model are those of the probability; log w is added while learning.
- *cost*: w is the event's own ratio of what two mistakes cost, a missed fraud (its amount) and a
  false decline (a fixed cost, a share of the amount, or both).
- *focal*: the best focal score is a known function of the probability (Charoenphakdee et al.).

>>> missed = Loss("cost", decline_cost_minor=1000.0)
>>> float(np.exp(shift_of(np.log1p(20_000.0), missed.values)))     # 200.00 against 10.00
20.0
>>> focal = Loss("focal", focal_gamma=2.0)
>>> score_of(corrected(-1.0, 0.0, focal.values))    # where the focal score is 0.269
0.06406

References
----------
Elkan, The Foundations of Cost-Sensitive Learning, IJCAI 2001.
Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
Charoenphakdee et al., On Focal Loss for Class-Posterior Probability Estimation, CVPR 2021.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np

from models import states
from models.compiled import Float32s, Floats, kernel
from models.contract import LOGIT_MAX, Header, score_of
from pipeline.errors import SettingError, SnapshotError

LOSSES = ("log", "squared", "focal", "cost")
LOG, SQUARED, FOCAL, COST = range(len(LOSSES))

# Places of a loss's numbers in the array that the kernels read.
KIND, LOG_WEIGHT, GAMMA, DECLINE_COST, DECLINE_SHARE = range(5)

# The feature that holds log(1 + minor units).
AMOUNT = "amount"

WEIGHT_MAX = 1000.0
# With more than this nearly nothing is learned of what is already likely.
GAMMA_MAX = 10.0
COST_MAX = 1e12
# One purchase shall not outweigh a thousand others, whatever its amount.
RATIO_LOG_MAX = math.log(1000.0)

# Below this the quotient of two differences has lost its digits; their limit is the slope.
DIFFERENCE_MIN = 1e-5
HALVINGS = 80


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss and its numbers.

    Parameters
    ----------
    kind
        One of `LOSSES`.
    fraud_weight
        How many genuine events a fraud weighs.
    focal_gamma
        `focal`: how much less is learned of what the score already said; 0 is log loss.
    decline_cost_minor, decline_cost_share
        `cost`: what a false decline costs, in minor units and as a share of the amount. A missed
        fraud costs its amount.
    """

    kind: str = "log"
    fraud_weight: float = 1.0
    focal_gamma: float = 2.0
    decline_cost_minor: float = 1000.0
    decline_cost_share: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in LOSSES:
            raise SettingError(f"loss must be one of {', '.join(LOSSES)} (got {self.kind!r})")
        if not 1.0 / WEIGHT_MAX <= self.fraud_weight <= WEIGHT_MAX:
            raise SettingError(
                f"fraud_weight must be from {1.0 / WEIGHT_MAX} to {WEIGHT_MAX:.0f} "
                f"(got {self.fraud_weight})"
            )
        if not 0.0 <= self.focal_gamma <= GAMMA_MAX:
            raise SettingError(f"focal_gamma must be 0 to {GAMMA_MAX} (got {self.focal_gamma})")
        costs = self.decline_cost_minor, self.decline_cost_share
        if not all(0.0 <= cost <= COST_MAX for cost in costs) or sum(costs) <= 0.0:
            raise SettingError(
                "decline_cost_minor and decline_cost_share must be from 0 on, and one above 0 "
                f"(got {costs[0]} and {costs[1]})"
            )

    @property
    def values(self) -> Floats:
        """The loss as the kernels read it."""
        kind, log_weight = float(LOSSES.index(self.kind)), math.log(self.fraud_weight)
        costs = self.decline_cost_minor, self.decline_cost_share
        return np.array([kind, log_weight, self.focal_gamma, *costs])

    def check_features(self, names: tuple[str, ...]) -> None:
        """Refuse costs where no amount is known."""
        if self.kind == "cost" and AMOUNT not in names:
            raise SettingError("loss 'cost' needs amounts, and the schema has none: choose another")

    def shifts(self, rows: Float32s, names: Sequence[str]) -> Floats:
        """Give `shift_of` each row of a model of these features."""
        amount = names.index(AMOUNT) if AMOUNT in names else -1
        return shifts_of(rows, amount, self.values)

    def header(self) -> Header:
        """Give the loss as part of a model's state."""
        return {("loss" if name == "kind" else name): value for name, value in asdict(self).items()}

    @classmethod
    def from_header(cls, header: Header) -> Self:
        """Take the loss from a model's state."""
        names = ("fraud_weight", "focal_gamma", "decline_cost_minor", "decline_cost_share")
        numbers = {name: states.number(header, name) for name in names}
        try:
            return cls(states.text(header, "loss"), **numbers)
        except SettingError as error:
            raise SnapshotError(f"state: {error}") from error


LOG_LOSS = Loss()


@kernel
def shift_of(amount: float, loss: Floats) -> float:
    """Give the log of how many genuine events a fraud weighs.

    `amount` is log(1 + minor units); one that is missing leaves its event as it is.
    """
    shift: float = loss[LOG_WEIGHT]
    if loss[KIND] == COST and not math.isnan(amount):
        # From e^40 on the ratio no longer changes, or is beyond its limit.
        minor = math.expm1(min(40.0, max(0.0, amount)))
        cost = loss[DECLINE_COST] + loss[DECLINE_SHARE] * minor
        ratio = math.log(max(1.0, minor)) - math.log(max(1e-9, cost))
        shift += min(RATIO_LOG_MAX, max(-RATIO_LOG_MAX, ratio))
    return shift


@kernel
def shifts_of(rows: Float32s, amount: int, loss: Floats) -> Floats:
    """Give `shift_of` every row; `amount` is the column of the amounts, -1: there is none."""
    shifts = np.empty(len(rows))
    for row in range(len(rows)):
        shifts[row] = shift_of(np.float64(rows[row, amount]) if amount >= 0 else np.nan, loss)
    return shifts


@kernel
def gradient(logit: float, is_fraud: int, shift: float, loss: Floats) -> float:
    """Give how the loss of one example changes with the model's log-odds."""
    score = score_of(logit + shift)
    slope = score - is_fraud
    if loss[KIND] == SQUARED:
        slope *= 2.0 * score * (1.0 - score)
    elif loss[KIND] == FOCAL:
        right = score if is_fraud == 1 else 1.0 - score
        focal = (1.0 - right) ** loss[GAMMA]
        focal *= 1.0 - right - loss[GAMMA] * right * math.log(right)
        slope = -focal if is_fraud == 1 else focal
    return slope * math.exp(shift) if is_fraud == 1 else slope


@kernel
def corrected(logit: float, shift: float, loss: Floats) -> float:
    """Give the log-odds of the probability from those that the model learned.

    A shift is added while learning (`gradient`), so that it needs no correction here. Behind the
    focal loss stands a map (Charoenphakdee et al., equation 10), here for log-odds.
    """
    if loss[KIND] != FOCAL:
        return logit
    focal = min(LOGIT_MAX, max(-LOGIT_MAX, logit + shift))
    score = score_of(focal)
    rest = 1.0 - score
    gain = math.log(score - loss[GAMMA] * rest * math.log(rest))
    gain -= math.log(rest - loss[GAMMA] * score * math.log(score))
    mapped: float = loss[GAMMA] * focal + gain - shift
    return mapped


@kernel
def _correct_rows(contributions: Floats, bias: float, shift: float, loss: Floats) -> None:
    usual = corrected(bias, shift, loss)
    for row in range(len(contributions)):
        total = 0.0
        for contribution in contributions[row]:
            total += contribution
        if abs(total) < DIFFERENCE_MIN:
            step = corrected(bias + DIFFERENCE_MIN, shift, loss)
            step -= corrected(bias - DIFFERENCE_MIN, shift, loss)
            contributions[row] *= step / (2.0 * DIFFERENCE_MIN)
        else:
            contributions[row] *= (corrected(bias + total, shift, loss) - usual) / total


def correct_contributions(contributions: Floats, bias: float, loss: Loss) -> float:
    """Turn contributions to the model's log-odds into those to the corrected; gives their bias.

    The map is one curve for all features, so each keeps its share (the rescale rule of Shrikumar
    et al., DeepLIFT, ICML 2017). They are changed in place.
    """
    if loss.kind != "focal":
        return bias
    values = loss.values
    shift = shift_of(math.nan, values)
    _correct_rows(contributions, bias, shift, values)
    return corrected(bias, shift, values)


def uncorrected(logit: float, loss: Loss) -> float:
    """Give the model's log-odds whose correction is `logit`: where a model begins.

    >>> focal = Loss("focal")
    >>> round(corrected(uncorrected(-4.6, focal), 0.0, focal.values), 9)
    -4.6
    """
    if loss.kind != "focal":
        return logit
    values = loss.values
    shift = shift_of(math.nan, values)
    low, high = -LOGIT_MAX - shift, LOGIT_MAX - shift
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if corrected(middle, shift, values) < logit else (low, middle)
    return (low + high) / 2.0

"""Columns that know the outcome: they would make a model look good that is of no use.

A column is a suspect by its name (a chargeback's date), or because it tells the label (nearly)
without error: by its values, by being empty or not, or by a threshold.

>>> import pandas as pd
>>> from producers.column_profile import profile_of
>>> label = profile_of("is_fraud", pd.Series(["0", "1"] * 50))
>>> leaks_of(profile_of("scenario", pd.Series(["0", "3"] * 50)), label)
'tells the label without error: each value goes with one verdict'
>>> leaks_of(profile_of("chargeback_date", pd.Series(["2026-11-01"] * 100)), None)
'its name (chargeback) says that it is known only after the event'
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from producers.column_profile import Profile

AFTER_WORDS = frozenset(
    ("chargeback", "dispute", "disputed", "refund", "refunded", "reversal", "reversed", "recovered")
    + ("investigation", "reported", "confirmed", "verdict", "outcome", "resolution", "resolved")
    + ("fraud", "fraudulent", "reviewed", "closed", "settled", "settlement", "flagged", "scenario")
)
ANSWER_WORDS = frozenset(("response", "resp", "respcode", "declined"))
# Fewer frauds than this prove nothing.
FRAUDS_MIN = 10
# Of the frauds, so many may be told wrongly for a column to be a suspect all the same.
MISTAKES_MAX = 0.01
# A value must come so often on average, or each row would tell its own label.
ROWS_A_VALUE_MIN = 5
RANKED_MIN = 0.995
FRAUD = frozenset(("1", "1.0", "true", "t", "y", "yes", "fraud", "bad", "j", "ja"))


def leaks_of(profile: Profile, label: Profile | None) -> str:
    """Say why a column would not be known at decision time; an empty text where nothing is seen."""
    named = [word for word in profile.words if word in AFTER_WORDS]
    told = "" if label is None else _tells(profile, label)
    if told:
        return told
    answers = [word for word in profile.words if word in ANSWER_WORDS]
    if answers:
        return (
            f"its name ({answers[0]}) says that it answers the attempt, so it is known only after "
            "the event: it may be response of [card_testing]"
        )
    return f"its name ({named[0]}) says that it is known only after the event" if named else ""


def _tells(profile: Profile, label: Profile) -> str:
    known = label.values.notna().to_numpy()
    is_fraud = label.values[known].map(str).str.lower().isin(FRAUD).to_numpy(dtype=bool)
    frauds = int(is_fraud.sum())
    if min(frauds, len(is_fraud) - frauds) < FRAUDS_MIN:
        return ""
    values = profile.values[known]
    empty = values.isna().to_numpy()
    if empty.any() and _mistakes(empty.astype(np.int64), is_fraud) <= MISTAKES_MAX * frauds:
        return "tells the label by being empty or not"
    codes, distinct = pd.factorize(values.map(str, na_action="ignore"), use_na_sentinel=False)
    if len(distinct) * ROWS_A_VALUE_MIN <= len(codes):
        mistakes = _mistakes(codes.astype(np.int64), is_fraud)
        if mistakes <= MISTAKES_MAX * frauds:
            how = "without error" if not mistakes else f"with {mistakes} errors"
            return f"tells the label {how}: each value goes with one verdict"
    return _ranks(profile.numbers[known], is_fraud) if profile.numeric else ""


def _mistakes(codes: NDArray[np.int64], is_fraud: NDArray[np.bool_]) -> int:
    """Count the rows on the smaller side of each value."""
    rows = np.bincount(codes)
    frauds = np.bincount(codes, weights=is_fraud).astype(np.int64)
    return int(np.minimum(frauds, rows - frauds).sum())


def _ranks(numbers: NDArray[np.float64], is_fraud: NDArray[np.bool_]) -> str:
    there = np.isfinite(numbers)
    numbers, is_fraud = numbers[there], is_fraud[there]
    frauds = int(is_fraud.sum())
    others = len(is_fraud) - frauds
    if min(frauds, others) < FRAUDS_MIN:
        return ""
    ranks = rankdata(numbers)
    area = (float(ranks[is_fraud].sum()) - frauds * (frauds + 1) / 2) / (frauds * others)
    if max(area, 1 - area) < RANKED_MIN:
        return ""
    return f"tells the label by a threshold (area under the curve {max(area, 1 - area):.3f})"

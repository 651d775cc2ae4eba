"""The rows of the benchmark: which model, on which features of which stream, at which delay.

The order is the order in which they run: what others wait for first, what takes longest last.

>>> rows = all_rows()
>>> [row.name for row in rows if row.stream == "phishing"][0]
'phishing-7d-replay-additive'
>>> len({row.name for row in rows}) == len(rows)
True
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from models import MODELS
from pipeline.errors import SettingError

Kind = Literal["replay", "handbook", "own", "loop", "cost"]
"""What a row runs: one of our models through the engine; a rival on the Handbook's features or on
ours; a model in the closed loop; or the measurement of what `additive` costs."""

RIVALS = {
    "river": "River StandardScaler + LogisticRegression",
    "vw": "Vowpal Wabbit, linear",
    "vw-pairs": "Vowpal Wabbit, all pairs",
    "lightgbm-weekly-30d": "LightGBM refitted weekly on 30 days",
    "lightgbm-daily-30d": "LightGBM refitted daily on 30 days",
    "xgboost-daily-30d": "XGBoost refitted daily on 30 days",
    "xgboost-weekly-30d": "XGBoost refitted weekly on 30 days",
    "lightgbm-weekly-7d": "LightGBM refitted weekly on 7 days",
    "lightgbm-daily-7d": "LightGBM refitted daily on 7 days",
    "xgboost-daily-7d": "XGBoost refitted daily on 7 days",
    "xgboost-weekly-7d": "XGBoost refitted weekly on 7 days",
    "forest": "River adaptive random forest, 10 trees",
}
# Of the protocol, in days.
DELAY = 7
OTHER_STREAMS = ("ecommerce", "phishing", "drift")
# At other delays than the protocol's.
DELAYED = ("river", "lightgbm-weekly-30d")
DELAYS = (0, 1, 30)
# On streams other than the Handbook's: one of each kind of rival.
ELSEWHERE = ("vw", "lightgbm-weekly-30d", "lightgbm-daily-30d", "xgboost-weekly-30d", "forest")
LOOP_RIVALS = {
    "lightgbm-weekly-30d": "LightGBM refitted weekly on 30 days",
    "lightgbm-weekly-90d": "LightGBM refitted weekly on 90 days",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the benchmark; `model` is of MODELS, or a rival's name."""

    kind: Kind
    stream: str
    model: str
    delay_days: int = DELAY

    @property
    def name(self) -> str:
        """The row's name, which is also that of its file."""
        return f"{self.stream}-{self.delay_days}d-{self.kind}-{self.model}"

    @property
    def title(self) -> str:
        """The model in words."""
        if self.model in MODELS:
            return f"`{self.model}`"
        title = (RIVALS | LOOP_RIVALS)[self.model]
        if self.model == "forest" and self.stream == "handbook":
            return f"{title} (days 45 to 84 only)"
        return title


def all_rows() -> list[Row]:
    """List every row; those that depend on no code of ours are first."""
    return list(_all_rows())


def _all_rows() -> Iterator[Row]:
    models = sorted(MODELS)
    yield from _rows("handbook", "handbook", RIVALS)
    for delay in DELAYS:
        yield from _rows("handbook", "handbook", DELAYED, delay)
    yield Row("cost", "handbook", "additive")
    yield from _rows("replay", "handbook", models)
    for stream in OTHER_STREAMS:
        yield from _rows("replay", stream, models)
        yield from _rows("own", stream, ELSEWHERE)
    yield from _rows("loop", "loop", [*models, *LOOP_RIVALS])
    # River's logistic regression on our features is the model `logistic`.
    yield from _rows("own", "handbook", [rival for rival in RIVALS if rival != "river"])
    for delay in DELAYS:
        yield from _rows("replay", "handbook", models, delay)
        yield Row("own", "handbook", "lightgbm-weekly-30d", delay)


def _rows(kind: Kind, stream: str, models: Iterable[str], delay: int = DELAY) -> Iterator[Row]:
    return (Row(kind, stream, model, delay) for model in models)


def row_of(name: str) -> Row:
    """Give the row of a name; the tiny stream's rows, which tests run, have names too."""
    stream, delay, kind, model = name.split("-", maxsplit=3)
    row = Row(kind, stream, model, int(delay.removesuffix("d")))  # type: ignore[arg-type]
    if row.stream != "tiny" and row not in all_rows():
        raise SettingError(f"no row {name!r}: `--list` shows all")
    return row

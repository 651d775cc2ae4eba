"""How unusual an event is, for the time before labels: River's half-space trees.

The trees learn what genuine events look like. How unusual one is says nothing of a probability,
so its rank among the events learned lately is turned into one: a share u of them was less unusual,
and the score is `fraud_share` x SHARPNESS x u^(SHARPNESS - 1). Over all events that is the share
of frauds (the prior, until labels say more), and two thirds of it is in the most unusual 2 %.

>>> chance = np.random.default_rng(1)
>>> rows = chance.normal(size=(2000, 2)).astype(np.float32)
>>> model = Anomaly(("amount", "count"))
>>> _ = model.learn(rows, np.zeros(2000, dtype=np.int8), np.ones(2000))
>>> model.scores(np.array([[0.0, 0.0], [5.0, 5.0]], dtype=np.float32)).round(3)
array([0.   , 0.086])

References
----------
Tan, Ting and Liu, Fast Anomaly Detection for Streaming Data, IJCAI 2011.
"""

import math
from typing import Any, ClassVar, Self

import numpy as np

from models import states
from models.compiled import Float32s
from models.contract import LOGIT_MAX, Arrays, Header
from models.river_model import RiverModel, Row

# Two thirds of the frauds are looked for in the most unusual 2 %.
SHARPNESS = 50.0
# An event is ranked among about the last so many genuine ones, in ranks of this width.
RANK_SPAN = 20_000.0
RANKS = 2000


class Anomaly(RiverModel):
    """River's half-space trees as a model; they learn genuine examples alone."""

    name: ClassVar[str] = "anomaly"
    place: ClassVar[str] = "river.anomaly.HalfSpaceTrees"

    def __init__(
        self,
        features: tuple[str, ...] | None = None,
        arguments: dict[str, Any] | None = None,
        pickles: bool = False,
    ) -> None:
        self._ranks = np.zeros(RANKS)
        super().__init__(features, arguments, pickles)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Give the arguments of River's class where nothing else is said."""
        return {"n_trees": 25, "height": 8}

    def _presents(self, rows: Float32s) -> list[Row]:
        """Give standard values from 0 to 1; what is missing is usual.

        The trees are built of the features of the first event and cut between 0 and 1.
        """
        scaled = np.nan_to_num(self._scaler.scale(rows), nan=0.0)
        values = (1.0 / (1.0 + np.exp(-scaled))).tolist()
        return [dict(zip(self._names, row, strict=True)) for row in values]

    def _usual(self) -> Row:
        return dict.fromkeys(self._names, 0.5)

    def _teach(self, present: Row, is_fraud: int, weight: float) -> None:
        if is_fraud == 0 and weight > 0.0:
            if self._ranks.sum() >= RANK_SPAN:
                self._ranks *= 0.5
            rank = self._rank(present)
            # Until River has filled its first window, every event is as usual as can be.
            if rank > 0:
                self._ranks[rank] += 1.0
            self._river.learn_one(present)

    def _rank(self, present: Row) -> int:
        """Give where an event stands among RANKS, by how unusual it is."""
        unusual = float(self._river.score_one(present))
        return min(RANKS - 1, int(unusual * RANKS))

    def _logit(self, present: Row) -> float:
        rank = self._rank(present)
        total = float(self._ranks.sum())
        density = 1.0
        if total > 0.0:
            below = float(self._ranks[:rank].sum()) + float(self._ranks[rank]) / 2.0
            density = SHARPNESS * (below / total) ** (SHARPNESS - 1.0)
        probability = min(1.0 - 1e-6, max(1e-6, self.fraud_share * density))
        logit = math.log(probability) - math.log1p(-probability)
        return min(LOGIT_MAX, max(-LOGIT_MAX, logit))

    def state(self) -> tuple[Header, Arrays]:
        """Give all that the model is, if it was made with `pickles`."""
        header, arrays = super().state()
        return header, arrays | {"ranks": self._ranks.copy()}

    @classmethod
    def unpickled(cls, header: Header, arrays: Arrays) -> Self:
        """Make the model again of a state that is trusted: it may run any program."""
        model = super().unpickled(header, arrays)
        model._ranks = states.array(arrays, "ranks", np.float64, (RANKS,))
        states.check_not_negative(model._ranks, "ranks")
        return model

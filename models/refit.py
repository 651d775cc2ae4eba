"""Trees grown by LightGBM, in the background.

A fit runs in a thread of its own, on a copy of its examples; the library's loops are compiled and
leave the interpreter free, so that who scores and learns meanwhile is not held up. It is
single-threaded, seeded and told to be deterministic: the same examples give the same trees, so a
fit that a crash took away is simply made again.

LightGBM is imported here and nowhere else, when the first fit begins: who only scores does
without it.

>>> rows = np.repeat(np.arange(20, dtype=np.float32), 50)[:, None]
>>> is_fraud = (rows[:, 0] > 12).astype(np.int8)
>>> trees = Refit(Examples(rows, is_fraud, np.ones(1000)), Growth(trees=20)).trees()
>>> len(trees), (trees.logits(rows) > 0).tolist() == (is_fraud == 1).tolist()
(20, True)
"""

import atexit
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.compiled import Float32s
from models.trees import Trees
from models.window import Examples
from pipeline.errors import SettingError

TREES_MAX, LEAVES_MAX = 2_000, 256

# Chosen on the first days of two streams (docs/decisions/0015-refits-in-the-background.md): where
# frauds are few, trees that see a part of the features and of the examples score better.
PARAMETERS: dict[str, object] = {
    "objective": "binary",
    "min_data_in_leaf": 50,
    "lambda_l2": 10.0,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "seed": 7,
    "verbosity": -1,
}


@dataclass(frozen=True, slots=True)
class Growth:
    """How many trees are grown, how many leaves each has at most, how far each one steps."""

    trees: int = 200
    leaves: int = 15
    rate: float = 0.05

    def __post_init__(self) -> None:
        fits = 1 <= self.trees <= TREES_MAX and 2 <= self.leaves <= LEAVES_MAX  # noqa: PLR2004
        if not (fits and 0.0 < self.rate <= 1.0):
            raise ValueError(
                f"trees must be 1 to {TREES_MAX}, leaves 2 to {LEAVES_MAX}, their rate above 0 and "
                f"at most 1 (got {self.trees}, {self.leaves} and {self.rate})"
            )


class Refit:
    """One fit, begun when it is made; `trees` waits for it."""

    def __init__(self, examples: Examples, growth: Growth) -> None:
        self._trees: Trees | None = None
        self._problem: BaseException | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._run, args=(examples, growth), daemon=True)
        self._thread.start()
        # A process that ends must not unload the library under a thread that is inside it.
        atexit.register(self._end)

    def trees(self) -> Trees:
        """Give the trees, when they are grown."""
        self._thread.join()
        atexit.unregister(self._end)
        if self._problem is not None:
            raise self._problem
        assert self._trees is not None, "a fit that was given up was asked for"
        return self._trees

    def _end(self) -> None:
        """Let the fit end after the tree that it is growing."""
        self._given_up = True
        self._thread.join()

    def _run(self, examples: Examples, growth: Growth) -> None:
        try:
            self._trees = self._grown(examples, growth)
        except Exception as problem:  # noqa: BLE001 - it is raised where the trees are asked for
            self._problem = problem

    def _grown(self, examples: Examples, growth: Growth) -> Trees | None:
        lightgbm = _library()
        parameters = {**PARAMETERS, "num_leaves": growth.leaves, "learning_rate": growth.rate}
        rows = finite_or_nan(examples.rows)
        data = lightgbm.Dataset(rows, examples.is_fraud, weight=examples.weights, params=parameters)
        booster = lightgbm.Booster(parameters, data)
        for _ in range(growth.trees):
            if self._given_up:
                return None
            if booster.update():
                break
        return Trees.of([tree["tree_structure"] for tree in booster.dump_model()["tree_info"]])


def finite_or_nan(rows: Float32s) -> Float32s:
    """Give rows without infinities, which bins have no room for; no split tells the difference.

    >>> finite_or_nan(np.array([1.0, np.inf, np.nan], dtype=np.float32))
    array([1.0000000e+00, 3.4028235e+38, nan], dtype=float32)
    """
    limit = np.finfo(np.float32).max
    clipped: Float32s = np.clip(rows, -limit, limit)
    return clipped


def _library() -> Any:
    try:
        import lightgbm  # noqa: PLC0415 - it takes a second, and only the trainer needs it
    except OSError as error:
        raise SettingError(
            f"LightGBM cannot be loaded: {error}; the model 'boosted' needs the system library "
            "libgomp (Debian: libgomp1; Alpine and Fedora: libgomp; macOS: libomp)"
        ) from error
    return lightgbm

"""Boosted trees as flat arrays, walked by a kernel.

The library that grows trees is needed only where they are grown; a worker has arrays of nodes.
Nodes stand in the order of a walk that goes left first, so a left child follows its parent and
only right children have a place written down. The log-odds of an event are the sum of one leaf
of each tree, in the order of the trees, as LightGBM itself adds them.

Every node has a value, the mean of what lies below it. On the way to a leaf each step changes
the value, and that change is the contribution of the feature that was asked: what the steps and
the values of the roots add up to is the score, by construction.

References
----------
Saabas, Interpreting random forests, 2014 (contributions by decision path).

>>> night = {"split_feature": 0, "threshold": 4.0, "default_left": True, "missing_type": "NaN",
...          "internal_value": -2.5, "left_child": {"leaf_value": 1.0},
...          "right_child": {"leaf_value": -3.0}}
>>> trees = Trees.of([night])
>>> hours = np.array([[2.0], [12.0], [np.nan]], dtype=np.float32)
>>> trees.logits(hours)
array([ 1., -3.,  1.])
>>> trees.explained(hours)[:, 0], trees.bias
(array([ 3.5, -0.5,  3.5]), -2.5)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models import states
from models.compiled import Float32s, Floats, Int8s, Int32s, kernel
from models.contract import Arrays, score_of
from pipeline.errors import SnapshotError

LEAF = -1

# What LightGBM took for missing when it split: nothing, then NaN counts as 0; numbers that are
# almost 0, NaN among them; or NaN alone. One bit more says where missing values go.
MISSING = {"None": 0, "Zero": 1, "NaN": 2}
MISSING_ZERO, MISSING_NAN = 1, 2
MISSING_KIND = 3
MISSING_LEFT = 4
FLAGS_MAX = MISSING_LEFT | MISSING_NAN

# LightGBM's own bound, a float32 that became a float64.
ZERO_MAX = float(np.float32(1e-35))
VALUE_MAX = float(np.finfo(np.float32).max)


@kernel
def goes_left(value: float, threshold: float, flags: int) -> bool:
    """Say whether a value goes to the left child, as LightGBM decides it."""
    kind = flags & MISSING_KIND
    if np.isnan(value):
        if kind == MISSING_NAN:
            return flags & MISSING_LEFT != 0
        value = 0.0
    if kind == MISSING_ZERO and -ZERO_MAX <= value <= ZERO_MAX:
        return flags & MISSING_LEFT != 0
    # A fit takes an infinity for the largest float32, and so must who walks its trees.
    return min(value, VALUE_MAX) <= threshold


@kernel
def _walk(
    rows: Float32s,
    roots: Int32s,
    features: Int32s,
    thresholds: Floats,
    flags: Int8s,
    rights: Int32s,
    values: Floats,
) -> Floats:
    logits = np.zeros(len(rows))
    # A tree at a time, so that its nodes stay in the cache; each row still adds tree by tree.
    for root in roots:
        for row in range(len(rows)):
            node = root
            while features[node] != LEAF:
                value = np.float64(rows[row, features[node]])
                left = goes_left(value, thresholds[node], flags[node])
                node = node + 1 if left else rights[node]
            logits[row] += values[node]
    return logits


@kernel
def _explain(
    rows: Float32s,
    roots: Int32s,
    features: Int32s,
    thresholds: Floats,
    flags: Int8s,
    rights: Int32s,
    values: Floats,
) -> Floats:
    contributions = np.zeros(rows.shape)
    for root in roots:
        for row in range(len(rows)):
            node = root
            while features[node] != LEAF:
                feature = features[node]
                value = np.float64(rows[row, feature])
                left = goes_left(value, thresholds[node], flags[node])
                child = node + 1 if left else rights[node]
                contributions[row, feature] += values[child] - values[node]
                node = child
    return contributions


@kernel
def scores_of(logits: Floats) -> Floats:
    """Give the scores of these log-odds."""
    scores = np.empty(len(logits))
    for row in range(len(logits)):
        scores[row] = score_of(logits[row])
    return scores


@dataclass(frozen=True, slots=True)
class Trees:
    """Some trees; of none, the log-odds are 0.

    Parameters
    ----------
    roots
        The first node of each tree.
    features
        The feature that a node asks for, `LEAF` where it asks none.
    thresholds, flags, rights, values
        A node's threshold, its way with missing values, its right child, its log-odds.
    """

    roots: Int32s
    features: Int32s
    thresholds: Floats
    flags: Int8s
    rights: Int32s
    values: Floats

    @classmethod
    def of(cls, trees: Sequence[Mapping[str, Any]]) -> Self:
        """Make trees of the `tree_structure` of each tree in LightGBM's dump."""
        nodes: list[_Node] = []
        roots = []
        for tree in trees:
            roots.append(len(nodes))
            _append(nodes, tree)
        columns: list[tuple[float, ...]] = list(zip(*nodes, strict=True)) or [()] * 5
        features, thresholds, flags, rights, values = columns
        return cls(
            np.array(roots, dtype=np.int32),
            np.array(features, dtype=np.int32),
            np.array(thresholds, dtype=np.float64),
            np.array(flags, dtype=np.int8),
            np.array(rights, dtype=np.int32),
            np.array(values, dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.roots)

    def logits(self, rows: Float32s) -> Floats:
        """Give the log-odds of each row."""
        return _walk(rows, *self._columns)

    def explained(self, rows: Float32s) -> Floats:
        """Say how far each feature moved each row's log-odds from `bias`."""
        return _explain(rows, *self._columns)

    @property
    def bias(self) -> float:
        """The log-odds of the usual event, the sum of the roots."""
        return float(np.cumsum(self.values[self.roots])[-1]) if len(self) else 0.0

    @property
    def _columns(self) -> tuple[Int32s, Int32s, Floats, Int8s, Int32s, Floats]:
        return (
            self.roots,
            self.features,
            self.thresholds,
            self.flags,
            self.rights,
            self.values,
        )

    def arrays(self) -> Arrays:
        """Give copies of all arrays, by name."""
        return {
            "tree_roots": self.roots.copy(),
            "tree_features": self.features.copy(),
            "tree_thresholds": self.thresholds.copy(),
            "tree_flags": self.flags.copy(),
            "tree_rights": self.rights.copy(),
            "tree_values": self.values.copy(),
        }

    @classmethod
    def restored(cls, arrays: Arrays, columns: int) -> Self:
        """Take back what `arrays` gave; trees whose walk would not end are refused."""
        nodes = _length(arrays, "tree_features")
        trees = cls(
            states.array(arrays, "tree_roots", np.int32, (_length(arrays, "tree_roots"),)),
            states.array(arrays, "tree_features", np.int32, (nodes,)),
            states.array(arrays, "tree_thresholds", np.float64, (nodes,)),
            states.array(arrays, "tree_flags", np.int8, (nodes,)),
            states.array(arrays, "tree_rights", np.int32, (nodes,)),
            states.array(arrays, "tree_values", np.float64, (nodes,)),
        )
        for problem in trees._problems(columns):
            raise SnapshotError(f"state: {problem}")
        return trees

    def _problems(self, columns: int) -> Iterator[str]:
        nodes = np.arange(len(self.features))
        edges = [*self.roots.tolist(), len(nodes)]
        if edges[0] != 0 or (np.diff(edges) <= 0).any():
            yield "tree_roots must ascend from 0"
            return
        end = np.repeat(edges[1:], np.diff(edges))
        asks = self.features != LEAF
        if ((self.features < LEAF) | (self.features >= columns)).any():
            yield f"tree_features must be columns from 0 to {columns - 1}"
        # Children come after their parents and within the tree, so every walk ends at a leaf.
        if (asks & ((self.rights <= nodes + 1) | (self.rights >= end))).any():
            yield "tree_rights must lie behind the left child, in the same tree"
        if ((self.flags < 0) | (self.flags > FLAGS_MAX)).any():
            yield f"tree_flags must be from 0 to {FLAGS_MAX}"


_Node = tuple[int, float, int, int, float]


def _append(nodes: list[_Node], tree: Mapping[str, Any]) -> None:
    """Append a tree's nodes, left children first."""
    if "split_feature" not in tree:
        nodes.append((LEAF, 0.0, 0, 0, float(tree["leaf_value"])))
        return
    if tree.get("decision_type", "<=") != "<=":
        raise ValueError(f"trees must split numbers (got {tree['decision_type']!r})")
    place = len(nodes)
    flags = MISSING[tree["missing_type"]] | (MISSING_LEFT if tree["default_left"] else 0)
    nodes.append((LEAF, 0.0, 0, 0, 0.0))
    _append(nodes, tree["left_child"])
    right = len(nodes)
    _append(nodes, tree["right_child"])
    value = float(tree["internal_value"])
    nodes[place] = (int(tree["split_feature"]), float(tree["threshold"]), flags, right, value)


def no_trees() -> Trees:
    """Give no trees."""
    return Trees.of([])


def _length(arrays: Arrays, name: str) -> int:
    found: NDArray[Any] = arrays.get(name, np.empty(0))
    return len(found) if found.ndim == 1 else 0

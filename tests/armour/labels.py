"""Labels in every order, again, and against each other: what becomes of each.

Labels that are signed, or pretend to be, have a table of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.durations import DAY_MS
from pipeline.errors import Reason
from pipeline.events import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN, Label
from pipeline.verdicts import LabelPath
from tests.armour.cases import CARD_NUMBER
from tests.strategies import MONDAY_MS, label, label_bytes


@dataclass(frozen=True)
class Said:
    """Labels in the order of their log, what becomes of each, and which verdict is in force.

    The decisions `t1` and `t2` are known, both of Monday.
    """

    name: str
    labels: Sequence[Label]
    paths: Sequence[LabelPath]
    is_fraud: bool | None = True


def _genuine(label_id: str = "l2", **changes: object) -> Label:
    return label(label_id, is_fraud=False, **changes)


_LATER_MS = MONDAY_MS + 9 * DAY_MS

LABELS = (
    Said("a fraud", [label()], ["learned"]),
    Said("a genuine one", [_genuine()], ["learned"], False),
    Said("of an unknown transaction", [label(transaction_id="t9")], ["unknown"], None),
    Said("the same again", [label(), label()], ["learned", "repeated"]),
    Said(
        "the same id, the opposite verdict",
        [label(), _genuine("l1")],
        ["learned", "repeated"],
    ),
    Said(
        "one id for two transactions",
        [label(), label(transaction_id="t2")],
        ["learned", "learned"],
    ),
    Said(
        "another that agrees",
        [label(), label("l2", source="chargeback")],
        ["learned", "confirmed"],
    ),
    Said(
        "a contradiction of lower rank",
        [label(), _genuine(source="customer", label_time_ms=_LATER_MS)],
        ["learned", "contradicted"],
    ),
    Said(
        "a contradiction of the same rank, later",
        [label(), _genuine(label_time_ms=_LATER_MS)],
        ["learned", "corrected"],
        False,
    ),
    Said(
        "a contradiction of the same rank that was said before",
        [label(label_time_ms=_LATER_MS), _genuine(source="chargeback")],
        ["learned", "contradicted"],
    ),
    Said(
        "a contradiction of higher rank that was said before",
        [label(label_time_ms=_LATER_MS), _genuine(source="dispute_won")],
        ["learned", "corrected"],
        False,
    ),
    Said(
        "a reversal by name, of lower rank",
        [label(), _genuine(source="customer", supersedes="l1")],
        ["learned", "corrected"],
        False,
    ),
    Said(
        "a reversal of a label that is unknown, which comes then",
        [_genuine(supersedes="l1"), label()],
        ["learned", "superseded"],
        False,
    ),
    Said(
        "a reversal of a label that never comes",
        [_genuine(supersedes="l9"), _genuine(supersedes="l9")],
        ["learned", "repeated"],
        False,
    ),
    Said(
        "a label that supersedes itself",
        [label(supersedes="l1"), label(supersedes="l1")],
        ["learned", "repeated"],
    ),
    Said(
        "two labels that supersede each other",
        [label(supersedes="l2"), _genuine(supersedes="l1")],
        ["learned", "superseded"],
    ),
    Said(
        "a reversal of a reversal",
        [
            label(),
            _genuine(source="customer", supersedes="l1"),
            label("l3", source="customer", supersedes="l2"),
        ],
        ["learned", "corrected", "corrected"],
    ),
    Said(
        "a fraud after it was taken for genuine by its age",
        [_genuine("matured-t1", source="matured"), label("l2", source="customer")],
        ["learned", "corrected"],
    ),
    Said("known before its event", [label(label_time_ms=MONDAY_MS - DAY_MS)], ["learned"]),
    Said("known at the first moment", [label(label_time_ms=EVENT_TIME_MS_MIN)], ["learned"]),
    Said("known at the last moment", [label(label_time_ms=EVENT_TIME_MS_MAX)], ["learned"]),
    Said(
        "frauds out of the order of their times",
        [label(label_time_ms=_LATER_MS), label("l2"), label("l3", label_time_ms=_LATER_MS + 1)],
        ["learned", "confirmed", "confirmed"],
    ),
)


@dataclass(frozen=True)
class Refused:
    """A label that is refused when it is read."""

    name: str
    value: bytes | None
    reason: Reason
    place: str


_GOOD = label_bytes()

REFUSED = (
    Refused("tombstone", None, "malformed", "$"),
    Refused("verdict that is unknown", label_bytes(verdict="perhaps"), "schema", "$.verdict"),
    Refused("verdict as a truth value", label_bytes(verdict=True), "schema", "$.verdict"),
    Refused("source that is unknown", label_bytes(source="matrix"), "schema", "$.source"),
    Refused("no label id", label_bytes(label_id=...), "schema", "$.label_id"),
    Refused("time in seconds", label_bytes(label_time=MONDAY_MS // 1000), "schema", "$.label_time"),
    Refused("card number as id", label_bytes(label_id=CARD_NUMBER), "card_number", "$.label_id"),
    Refused("supersedes what is no id", label_bytes(supersedes="l 1"), "schema", "$.supersedes"),
    Refused("verdict twice", _GOOD[:-1] + b',"verdict":"genuine"}', "malformed", "$"),
    Refused("by in bytes that are no UTF-8", _GOOD[:-1] + b',"by":"\xff"}', "malformed", "$"),
    Refused("unknown field that is no UTF-8", _GOOD[:-1] + b',"x":"\xff"}', "malformed", "$"),
    Refused("too large", label_bytes(by="x" * 20_000), "too_large", "$"),
    Refused("an outcome", b'{"transaction_id":"t1","card_id":"c1","outcome":"settled",'
            b'"outcome_time":1609718400000}', "schema", "$.label_id"),
)  # fmt: skip

"""Events whose ids come again: each is decided once within what its card remembers."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.profiles import RECENT_IDS


@dataclass(frozen=True)
class Again:
    """Events as pairs of id and card, and the places of those that are decided."""

    name: str
    events: Sequence[tuple[str, str]]
    decided: Sequence[int]


def _others(count: int, card: str = "c1") -> list[tuple[str, str]]:
    return [(f"other-{card}-{number}", card) for number in range(count)]


_ONE = ("t1", "c1")

DUPLICATES = (
    Again("the same id at once", [_ONE, _ONE], [0]),
    Again("the same id three times", [_ONE, _ONE, _ONE], [0]),
    Again("two ids in turns", [_ONE, ("t2", "c1"), _ONE, ("t2", "c1")], [0, 1]),
    Again(
        "the same id after as many as are remembered, itself among them",
        [_ONE, *_others(RECENT_IDS - 1), _ONE],
        range(RECENT_IDS),
    ),
    Again(
        "the same id after one more is a new event",
        [_ONE, *_others(RECENT_IDS), _ONE],
        range(RECENT_IDS + 2),
    ),
    Again(
        "the same id after many events of another card",
        [_ONE, *_others(40, "c2"), _ONE],
        range(41),
    ),
    Again("ids that differ in case", [_ONE, ("T1", "c1")], [0, 1]),
    Again("ids of which one is the beginning of the other", [_ONE, ("t11", "c1")], [0, 1]),
    Again("an id of 64 characters", [("t" * 64, "c1"), ("t" * 64, "c1")], [0]),
    Again("duplicates of a duplicate among others", [_ONE, *_others(5), _ONE, _ONE], range(6)),
)

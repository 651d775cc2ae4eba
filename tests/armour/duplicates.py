"""Events whose ids come again: the same event is decided once, another one contradicts it."""

from collections.abc import Sequence
from dataclasses import dataclass

Event = tuple[str, str, int]
"""Id, card and time in milliseconds of an hour; two with the same id and card are the same event
where their times are the same."""


@dataclass(frozen=True)
class Again:
    """Events, the places of those that are decided, and of those that contradict one of these."""

    name: str
    events: Sequence[Event]
    decided: Sequence[int]
    conflicts: Sequence[int] = ()


def _others(count: int, card: str = "c1") -> list[Event]:
    return [(f"other-{card}-{number}", card, number) for number in range(count)]


_ONE: Event = ("t1", "c1", 0)
_TWO: Event = ("t2", "c1", 1)

DUPLICATES = (
    Again("the same event at once", [_ONE, _ONE], [0]),
    Again("the same event three times", [_ONE, _ONE, _ONE], [0]),
    Again("two events in turns", [_ONE, _TWO, _ONE, _TWO], [0, 1]),
    Again("the same event after many of its card", [_ONE, *_others(500), _ONE], range(501)),
    Again("the same event after many of another card", [_ONE, *_others(40, "c2"), _ONE], range(41)),
    Again("the same id at another time", [_ONE, ("t1", "c1", 1)], [0], [1]),
    Again("the same id of another card", [_ONE, ("t1", "c2", 0)], [0], [1]),
    Again(
        "the event itself after one that contradicts it", [_ONE, ("t1", "c2", 0), _ONE], [0], [1]
    ),
    Again("a contradiction twice", [_ONE, ("t1", "c2", 0), ("t1", "c2", 0)], [0], [1, 2]),
    Again("ids that differ in case", [_ONE, ("T1", "c1", 0)], [0, 1]),
    Again("another id, all else the same", [_ONE, ("t3", "c1", 0)], [0, 1]),
    Again("ids of which one is the beginning of the other", [_ONE, ("t11", "c1", 0)], [0, 1]),
    Again("an id of 64 characters", [("t" * 64, "c1", 0), ("t" * 64, "c1", 0)], [0]),
    Again("duplicates of a duplicate among others", [_ONE, *_others(5), _ONE, _ONE], range(6)),
)

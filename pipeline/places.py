"""Places in the training log that a fold has passed, so that a window can be read again.

Some models need the examples of their latest weeks again when they are made of a snapshot. Which
record of the log is example number n is known to who has folded it: a record may be there twice.
So the fold notes where it stands now and then, and reading begins at the last place noted before
the window. Beyond `PLACES_MAX` every other place is let go of: then some more is read than is
needed, and nothing else changes.

>>> places = Places()
>>> for offset in range(0, 50, 5):
...     places.note(Place(offset, learned=offset - offset // 20, marks={}))
>>> places.before(24).offset
25
>>> places.forget_before(places.before(24))
>>> len(places)
5
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

PLACES_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the training log.

    Parameters
    ----------
    offset
        The offset of the next record.
    learned
        How many examples were learned before it.
    marks
        The last `training_seq` before it, of each feedback partition.
    """

    offset: int
    learned: int
    marks: dict[int, int]


class Remembering(Protocol):
    """What a model says of the examples that it needs again."""

    @property
    def learned(self) -> int:
        """How many examples it has learned."""

    @property
    def window_start(self) -> int:
        """The number of the first example that it needs again."""


class Places:
    """The places that were noted, the first first; before any, the beginning of the log."""

    def __init__(self) -> None:
        self._places = [Place(0, 0, {})]

    def __len__(self) -> int:
        return len(self._places)

    def note(self, place: Place) -> None:
        """Keep a place, if it lies behind those that are kept."""
        if place.learned <= self._places[-1].learned:
            return
        self._places.append(place)
        if len(self._places) > PLACES_MAX:
            del self._places[1:-1:2]

    def before(self, number: int) -> Place:
        """Give the last place before the example of this number."""
        found = bisect_right(self._places, number, key=lambda place: place.learned)
        return self._places[max(0, found - 1)]

    def forget_before(self, place: Place) -> None:
        """Let go of the places that lie before one."""
        self._places = [kept for kept in self._places if kept.learned >= place.learned]

    def needed(self, models: Sequence[Remembering]) -> Place | None:
        """Give where reading begins for what these models need again; `None` if that is nothing."""
        starts = [model.window_start for model in models if model.window_start < model.learned]
        return self.before(min(starts)) if starts else None

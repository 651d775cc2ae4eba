"""Recorded history as it is worked off: step by step of event time, labels before events.

A step is a span of event time in which something happened. What became known before it is learned
first, then its events are decided with the models as they stand (`pipeline/replay.py` does the same
in memory). Every record has a number that a second reading of the same file gives it again, so that
positions in it mean what offsets of a topic mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Before the names of topics, where records came from a file in their place: of inputs in the
# store, of the sources of decisions and of dead letters.
PREFIX = "backfill."


class HistoryRecord(NamedTuple):
    """A record in its wire form; `offset` is its number, which rises within a partition."""

    offset: int
    key: bytes
    value: bytes


ByPartition = dict[int, list[HistoryRecord]]
"""Records by their partition, each partition in order."""


@dataclass(frozen=True, slots=True)
class HistoryStep:
    """A step of event time.

    Parameters
    ----------
    start_ms
        Its beginning.
    labels
        What became known before it, and was not in a step before.
    newest
        The highest number of an event that they speak of; -1 where there are none.
    chunks
        Its events, in parts that follow each other; none in the last step.
    first, end
        The numbers of its first event and of the one after its last.
    last_ms
        The time of its last event.
    """

    start_ms: int
    labels: ByPartition
    chunks: Sequence[ByPartition] = field(default_factory=list)
    first: int = 0
    end: int = 0
    last_ms: int = 0
    newest: int = -1

    @property
    def events(self) -> int:
        """How many events it has."""
        return self.end - self.first

"""Which core a rival runs on, and which are left for everything else.

Every rival is one process on the same core; Kafka, Redis, the trainer, the generator of load and
this program share the others. Where there is only one core all of them share it.

>>> split({0, 1}), split({0, 1, 2, 3}), split({0})
(({1}, {0}), ({3}, {0, 1, 2}), ({0}, {0}))
"""

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """The rival's core and the others; both empty where a system cannot pin."""

    rival: AbstractSet[int]
    others: AbstractSet[int]

    @property
    def all(self) -> AbstractSet[int]:
        """What nothing is held to."""
        return self.rival | self.others

    @property
    def words(self) -> str:
        """Say what is pinned where."""
        if not self.rival:
            return "nothing is pinned: this system cannot"
        if self.rival == self.others:
            return "one core only: each rival shares it with the servers"
        return f"each rival on core {min(self.rival)}, all else on {sorted(self.others)}"


def split(allowed: AbstractSet[int]) -> tuple[set[int], set[int]]:
    """Give the last core to the rival: the first one has the interrupts."""
    rival = {max(allowed)}
    return rival, set(allowed) - rival or rival


def find_cores() -> Cores:
    """Look at what this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(set(), set())
    return Cores(*split(os.sched_getaffinity(0)))


def pin(cores: AbstractSet[int]) -> None:
    """Hold this process, and what it starts from now on, to cores."""
    if cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def held_to(cores: AbstractSet[int], back: AbstractSet[int]) -> Iterator[None]:
    """Hold this process, and what it starts, to cores for the length of the block."""
    pin(cores)
    try:
        yield
    finally:
        pin(back)


def pinning(cores: AbstractSet[int]) -> str:
    """Give a line of Python by which a process that begins holds itself to cores.

    >>> pinning({1})
    'import os; os.sched_setaffinity(0, {1}); '
    """
    return f"import os; os.sched_setaffinity(0, {set(cores)}); " if cores else ""

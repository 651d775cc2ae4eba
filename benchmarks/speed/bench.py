"""What every row of the bench is given, and what a row is."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.speed.cores import Cores, pinning
from benchmarks.speed.material import Material
from benchmarks.speed.place import OURS, ROOT, Place, fresh_place
from pipeline.schema import load_schema
from producers.writing import write_events
from stack.services import PROGRAM

Found = dict[str, float]
# What a worker does before it is ready.
WARM_UP = (
    "from benchmarks.speed.place import OURS; from pipeline.schema import load_schema; "
    "from pipeline.warm_up import warm_up; warm_up(load_schema(OURS.schema), OURS)"
)


@dataclass(frozen=True)
class Bench:
    """The cores, the events, and how much of everything."""

    cores: Cores
    events: int
    is_short: bool
    folder: Path

    @cached_property
    def material(self) -> Material:
        """The events, made when they are first wanted."""
        return Material(OURS, self.events)

    def compile(self) -> None:
        """Compile what is not compiled yet, so that no row has to."""
        given = ["replay", "--simulate", "--days", "9", "--json", "--models", OURS.model]
        for program, arguments in ((WARM_UP, []), (PROGRAM, given)):
            command = [sys.executable, "-c", pinning(self.cores.rival) + program, *arguments]
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)

    @cached_property
    def file(self) -> Path:
        """The same events as a file, made when it is first wanted."""
        path = self.folder / "events.parquet"
        write_events(path, [self.material.batch], load_schema(OURS.schema))
        return path

    def most(self, events: int) -> int:
        """Give so many events, or all where there are fewer: slow rivals need no more."""
        return min(events, self.events)

    @contextmanager
    def place(self, settings: Any = OURS) -> Iterator[Place]:
        """Start servers for the length of the block."""
        with fresh_place(self.cores, settings) as place:
            yield place


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: its name, what it is, how it is taken, and in how many rounds at most."""

    name: str
    title: str
    run: Callable[[Bench], Found]
    rounds_max: int = 99

"""Keeps our own processes running: one that ends is started again, whatever ended it.

A worker or trainer ends itself when it gets nowhere (`consumers/watchdog.py`) or meets what it did
not expect; its work is safe in the store, so starting again is always right. One that ends again
and again is given more time each time.

>>> [delay_seconds(failures) for failures in range(1, 8)]
[1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.settings import Settings
from stack.processes import Started
from stack.servers import Endpoints
from stack.services import start_service, stop_services

DELAY_SECONDS_MAX = 30.0
# Whoever has run for so long is well: its next end is a first one.
WELL_SECONDS = 60.0


def delay_seconds(failures: int) -> float:
    """Give the time from an end to the next start, after so many ends in a row."""
    return min(2.0 ** (failures - 1), DELAY_SECONDS_MAX)


@dataclass(slots=True)
class _Place:
    """One process that is to run, and what became of it."""

    name: str
    log: Path
    settings: Settings
    service: Started | None = None
    started_at: float = 0.0
    failures: int = 0
    due_at: float = 0.0


class Supervisor:
    """Runs services by their names; `say` gets a line for whatever happens.

    `with Supervisor(...) as supervisor` starts all and stops them at the end; between, `look` must
    be called every second or so.

    Attributes
    ----------
    restarts
        Processes that were started again.
    """

    def __init__(
        self,
        names: Sequence[str],
        settings: Settings,
        endpoints: Endpoints,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints, self._say, self._clock = endpoints, say, clock
        folder = Path(settings.state_dir).absolute()
        self._places = [
            _Place(
                f"{name}-{number}", folder / f"{name}-{number}.log", _with_port(settings, number)
            )
            for number, name in enumerate(names)
        ]
        self.restarts = 0

    def __enter__(self) -> "Supervisor":
        try:
            for place in self._places:
                self._start(place)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> list[Started]:
        """The processes that run now."""
        return [place.service for place in self._places if place.service is not None]

    def look(self) -> None:
        """Look at all once: take note of ends, and start again what is due."""
        for place in self._places:
            if place.service is not None and place.service.process.poll() is not None:
                self._ended(place, place.service)
            elif place.service is None and self._clock() >= place.due_at:
                self.restarts += 1
                self._start(place)

    def stop(self) -> None:
        """End all as SIGTERM does, and wait for them."""
        stop_services(self.running)
        for place in self._places:
            place.service = None

    def _start(self, place: _Place) -> None:
        self._say(f"{place.name}: starting, log in {place.log}")
        if place.log.exists():
            place.log.replace(place.log.with_suffix(".previous.log"))
        name = place.name.rpartition("-")[0]
        place.service = start_service(name, place.settings, self._endpoints, log=place.log)
        place.started_at = self._clock()

    def _ended(self, place: _Place, service: Started) -> None:
        was_well = self._clock() - place.started_at > WELL_SECONDS
        place.failures = 1 if was_well else place.failures + 1
        delay = delay_seconds(place.failures)
        place.due_at = self._clock() + delay
        self._say(f"{place.name} {service.failure()}: again in {delay:.0f} s")
        service.release()
        place.service = None


def _with_port(settings: Settings, number: int) -> Settings:
    """Give each process a port of its own, counted from the one that is set."""
    if settings.metrics_port == 0:
        return settings
    return replace(settings, metrics_port=settings.metrics_port + number)

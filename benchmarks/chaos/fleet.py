"""Workers and trainers as numbered places: whoever dies in one is followed by another.

A supervisor would do the same for real ones. Every start, every end and every kill is noted with
its time, and a process's own words are kept, since the killed ones cannot be asked any more.
"""

import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.chaos.launcher import EXIT_CODE, Orders, give_orders, program
from pipeline.settings import Settings
from stack.processes import Started, identify, resident_bytes, stop
from stack.servers import Endpoints
from stack.services import start_service

READY = re.compile(r"ready: metrics (http://\S+)")
ASSIGNED = re.compile(r"assigned: partitions=\[(.*)\]")
REFUSED = re.compile(r"refused: input=transactions:(\d+)")
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
POLL_SECONDS = 0.05
READY_SECONDS_MAX = 300.0
STOP_SECONDS_MAX = 30.0
# A process that ends again and again is started at most this often.
RESTART_SECONDS = 0.5


@dataclass
class Life:
    """One process: where it is, since when, and how it ended."""

    name: str
    place: int
    started: Started
    control: Path
    born: float
    died: float | None = None
    exit_code: int | None = None
    wanted: bool = True

    @property
    def output(self) -> str:
        """All that it has said."""
        return self.started.log.read_text(encoding="utf-8", errors="replace")

    @property
    def is_ready(self) -> bool:
        """Whether it is at work: it lives, and has said so."""
        return self.is_alive and READY.search(self.output) is not None

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended; a stopped process is alive."""
        return self.died is None and self.started.process.poll() is None

    @property
    def partitions(self) -> set[int]:
        """The partitions that it was last given."""
        found = ASSIGNED.findall(self.output)
        return {int(text) for text in found[-1].split(",") if text.strip()} if found else set()

    @property
    def assignments(self) -> Counter[int]:
        """How often it was given each partition."""
        return Counter(
            int(text)
            for given in ASSIGNED.findall(self.output)
            for text in given.split(",")
            if text.strip()
        )

    @property
    def refusals(self) -> Counter[int]:
        """How often its commit was refused, by partition of `transactions`."""
        return Counter(int(text) for text in REFUSED.findall(self.output))

    @property
    def resident_bytes(self) -> int:
        """The memory that it occupies."""
        identity = identify(self.started.process.pid)
        return resident_bytes(identity) if identity else 0

    def total(self, metric: str) -> float:
        """Give the sum of a metric's samples; 0 where it does not answer."""
        found = READY.search(self.output)
        if found is None or not self.is_alive:
            return 0.0
        try:
            with urllib.request.urlopen(found[1], timeout=5) as answer:
                page = answer.read().decode()
        except OSError:
            return 0.0
        return sum(float(value) for name, _, value in SAMPLE.findall(page) if name == metric)


@dataclass
class Fleet:
    """The processes of a run; `keep` says how many places each kind has.

    Attributes
    ----------
    lives
        Every process that ever ran, in the order of their starts.
    kills
        Times of sudden ends: SIGKILL, and ends at a fail-point.
    surprises
        Ends that nobody ordered: an error in a process, which its successor must survive.
    """

    settings: Settings
    endpoints: Endpoints
    lives: list[Life] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._places: dict[tuple[str, int], Life] = {}
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def life(self, name: str, place: int) -> Life:
        """Give who is in a place now."""
        return self._places[name, place]

    def alive(self, name: str) -> list[Life]:
        """Give those of a kind that live."""
        with self._lock:
            return [item for (kind, _), item in sorted(self._places.items()) if kind == name]

    def keep(self, name: str, count: int, **changes: object) -> None:
        """Have so many of a kind from now on; those beyond are asked to end, and waited for."""
        with self._lock:
            present = {place for kind, place in self._places if kind == name}
            gone = [self._places.pop((name, place)) for place in present if place >= count]
            for place in set(range(count)) - present:
                self._start(name, place, **changes)
        for life in gone:
            self.end(life)

    def wait_until_ready(self, name: str, seconds_max: float = READY_SECONDS_MAX) -> None:
        """Wait until every place of a kind has someone who is ready."""

        def are_ready() -> bool:
            return all(item.is_ready for item in self.alive(name))

        self.wait(are_ready, f"{name}s are ready", seconds_max)

    def wait(
        self, holds: Callable[[], bool], what: str, seconds_max: float = READY_SECONDS_MAX
    ) -> None:
        """Wait for a condition; `TimeoutError` says which did not come."""
        deadline = time.monotonic() + seconds_max
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {seconds_max:.0f} s not so: {what}")
            time.sleep(POLL_SECONDS)

    def alone(self, name: str, **changes: object) -> Life:
        """Start one that nobody follows."""
        with self._lock:
            life = self._launch(name, 100 + len(self.lives), **changes)
        life.wanted = False
        return life

    def kill(self, life: Life) -> None:
        """End a process at once, as SIGKILL does; it is gone when this returns."""
        self.kills.append(time.monotonic())
        life.started.process.kill()
        life.started.process.wait(STOP_SECONDS_MAX)

    def send(self, life: Life, number: signal.Signals) -> None:
        """Send a signal to a process."""
        if life.is_alive:
            life.started.process.send_signal(number)

    def order(self, life: Life, orders: Orders) -> None:
        """Tell a process where to die, or how late it is."""
        give_orders(life.control, orders)

    def end(self, life: Life) -> float:
        """Ask a process to end and wait for it; gives the seconds that took."""
        life.wanted = False
        asked = time.monotonic()
        self.send(life, signal.SIGTERM)
        life.started.process.wait(STOP_SECONDS_MAX)
        self._note_end(life)
        return time.monotonic() - asked

    def replace_after_end(self, life: Life) -> float:
        """Ask a process to end, then let another take its place; gives the seconds to the end."""
        with self._lock:
            seconds = self.end(life)
            self._start(life.name, life.place)
        return seconds

    def close(self) -> None:
        """End all."""
        self._ended.set()
        self._thread.join()
        alive = [life for life in self.lives if life.is_alive]
        for life in alive:
            self.send(life, signal.SIGCONT)
        stop(found for life in alive if (found := identify(life.started.process.pid)))
        for life in self.lives:
            life.started.release()

    def _start(self, name: str, place: int, **changes: object) -> None:
        self._places[name, place] = self._launch(name, place, **changes)

    def _launch(self, name: str, place: int, **changes: object) -> Life:
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        folder = Path(settings.state_dir).absolute()
        stem = f"{name}-{place}-{len(self.lives)}"
        control = folder / f"{stem}.control"
        started = start_service(
            name, settings, self.endpoints, log=folder / f"{stem}.log", program=program(control)
        )
        life = Life(name, place, started, control, time.monotonic())
        self.lives.append(life)
        return life

    def _supervise(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            with self._lock:
                for (name, place), life in list(self._places.items()):
                    if life.started.process.poll() is None:
                        continue
                    self._note_end(life)
                    if time.monotonic() - life.born > RESTART_SECONDS:
                        self._start(name, place)

    def _note_end(self, life: Life) -> None:
        if life.died is not None:
            return
        life.died, life.exit_code = time.monotonic(), life.started.process.poll()
        if life.exit_code == EXIT_CODE:
            self.kills.append(life.died)
        elif life.wanted and life.exit_code != -signal.SIGKILL:
            last = [line for line in life.output.splitlines() if line.strip()][-1:]
            self.surprises.append(f"{life.name} ended by itself ({life.exit_code}): {last}")

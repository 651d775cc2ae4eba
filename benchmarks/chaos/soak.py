"""`python -m benchmarks.chaos.soak`: a long run with a fault now and then, chosen by a seed.

Workers and trainers are killed, halted and asked to end, servers killed and halted; one worker and
the trainer are spared signals of their own, so that there is a memory to be watched over time.
Everything else happens to them as well: rebalances, a broker and a store that go away.

Slopes of memory are by least squares over means of a minute, after a warm-up, with the interval
of Student's t: neighbouring samples are alike, means of a minute much less.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from scipy import stats

from benchmarks.chaos.checker import totals
from benchmarks.chaos.cluster import KAFKA, REDIS
from benchmarks.chaos.faults import TRAINER, WORKER, Faults
from benchmarks.chaos.fleet import Life
from benchmarks.chaos.results import p95
from benchmarks.chaos.session import Session, chaos_settings
from benchmarks.chaos.watch import longest_stall, seconds_until_all_move
from benchmarks.machine import machine
from pipeline.topics import FEEDBACK, TRANSACTIONS

RESULT = Path(__file__).parents[1] / "results" / "soak.json"
SESSION_SECONDS = 6.0
WORKERS = 3
SAMPLE_SECONDS = 5.0
MEAN_SECONDS = 60.0
# Kernels are compiled, caches and queues fill: memory grows at first by right.
WARM_UP_SHARE, WARM_UP_SECONDS_MAX = 0.25, 600.0
MEANS_MIN = 3
FAULT_SECONDS = (10.0, 30.0)
CONFIDENCE = 0.95
MEGABYTE, HOUR_SECONDS = 1e6, 3600.0


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth of memory in MB an hour, with its interval of 95 %, and what it is of."""

    mb_an_hour: float
    low: float
    high: float
    minutes: float
    mb: float


def slope_of(times: Sequence[float], sizes: Sequence[float], since: float) -> Slope | None:
    """Give the slope of a process's memory (bytes at seconds); `None` where it lived too shortly.

    >>> times = [float(second) for second in range(0, 1200, 5)]
    >>> found = slope_of(times, [1e8 + 1e3 * second for second in times], since=300.0)
    >>> found.mb_an_hour, found.minutes
    (3.6, 15.0)
    """
    by_minute: dict[int, list[tuple[float, float]]] = {}
    for when, size in zip(times, sizes, strict=True):
        if when >= since:
            by_minute.setdefault(int((when - since) // MEAN_SECONDS), []).append((when, size))
    if len(by_minute) < MEANS_MIN:
        return None
    hours, sizes_mb = np.array(
        [np.mean(samples, axis=0) for samples in by_minute.values()]
    ).T / np.array([[HOUR_SECONDS], [MEGABYTE]])
    fit = stats.linregress(hours, sizes_mb)
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(hours) - 2) * fit.stderr)
    slope = float(fit.slope)
    return Slope(
        round(slope, 3), round(slope - width, 3), round(slope + width, 3),
        float(len(by_minute)), round(float(sizes_mb.mean()), 1),
    )  # fmt: skip


@dataclass
class Samples:
    """What was seen of the processes every few seconds."""

    sizes: dict[int, tuple[Life, list[float], list[float]]] = field(default_factory=dict)
    lags: list[int] = field(default_factory=list)

    def add(self, lives: Sequence[Life], lag: int | None, now: float) -> None:
        """Take one sample of each."""
        for life in lives:
            size = life.resident_bytes
            if size:
                found = self.sizes.setdefault(id(life), (life, [], []))
                found[1].append(now)
                found[2].append(float(size))
        if lag is not None:
            self.lags.append(lag)

    def slopes(self, name: str, warm_up: float) -> list[Slope]:
        """Give the slopes of the processes of a kind that lived long enough, longest first."""
        found = [
            slope_of(times, sizes, times[0] + warm_up)
            for life, times, sizes in self.sizes.values()
            if life.name == name
        ]
        return sorted((item for item in found if item), key=lambda item: -item.minutes)


Fault = Callable[[Faults, Random], None]


def _zombie(faults: Faults, chance: Random) -> None:
    place = chance.randrange(1, WORKERS)
    faults.halt(place)
    time.sleep(2 * SESSION_SECONDS)
    faults.resume(place)


def _halted(name: str, seconds: float) -> Fault:
    def fault(faults: Faults, _: Random) -> None:
        faults.halt_server(name)
        time.sleep(seconds)
        faults.resume_server(name)

    return fault


def _second_trainer(faults: Faults, _: Random) -> None:
    faults.second_trainer()


# Weight, name, what is done.
FAULTS: tuple[tuple[int, str, Fault], ...] = (
    (30, "worker killed", lambda faults, chance: faults.kill(WORKER, chance.randrange(1, WORKERS))),
    (
        15,
        "worker fails in a commit",
        lambda faults, chance: faults.arm(place=chance.randrange(1, WORKERS)),
    ),
    (
        10,
        "worker asked to end",
        lambda faults, chance: faults.terminate(chance.randrange(1, WORKERS)),
    ),
    (10, "worker halted for two sessions", _zombie),
    (5, "second trainer", _second_trainer),
    (6, "Redis killed", lambda faults, _: faults.end_server(REDIS)),
    (6, "broker killed", lambda faults, _: faults.end_server(KAFKA)),
    (3, "Redis halted, 8 s", _halted(REDIS, 8.0)),
    (3, "broker halted, 10 s", _halted(KAFKA, 10.0)),
)


class Soak:
    """One long run."""

    def __init__(self, session: Session, seed: int, say: Callable[[str], None]) -> None:
        self._session, self._say = session, say
        self._chance = Random(seed)
        self._faults = Faults(session, self._chance)
        self._consumer: Any = KafkaConsumer(bootstrap_servers=session.servers.split(","))
        self._places = [
            TopicPartition(TRANSACTIONS, number) for number in range(session.settings.partitions)
        ]
        self.samples = Samples()
        self.done: Counter[str] = Counter()

    def run(self, seconds: float) -> dict[str, Any]:
        """Go on for so long, then close the books and say what came of it."""
        began = time.monotonic()
        next_fault = began + FAULT_SECONDS[0]
        while (now := time.monotonic()) < began + seconds:
            fleet = self._session.fleet
            self.samples.add([*fleet.alive(WORKER), *fleet.alive(TRAINER)], self._lag(), now)
            if now >= next_fault:
                self._break(now - began)
                next_fault = time.monotonic() + self._chance.uniform(*FAULT_SECONDS)
            time.sleep(SAMPLE_SECONDS)
        return {"stall_seconds_max": round(
            longest_stall(self._session.watch.steps, began, time.monotonic()), 1
        )}  # fmt: skip

    def _break(self, at: float) -> None:
        [(_, name, fault)] = self._chance.choices(FAULTS, [weight for weight, _, _ in FAULTS])
        self._say(f"{at:7.0f} s  {name}, committed {self._session.watch.committed:,}")
        self.done[name] += 1
        try:
            fault(self._faults, self._chance)
        except (TimeoutError, LookupError) as error:
            self._faults.noted.unmet.append(f"{name}: {error}")

    def _lag(self) -> int | None:
        with suppress(KafkaError):
            ends: dict[TopicPartition, int] = self._consumer.end_offsets(self._places)
            return max(0, sum(ends.values()) - self._session.watch.committed)
        return None

    def close(self) -> dict[str, Any]:
        """Close the books; give what they say."""
        self._consumer.close()
        session, noted = self._session, self._faults.noted
        session.heal()
        self._faults.close()
        findings = session.close_books()
        harms = totals(findings)
        books, steps = session.books, session.watch.steps
        recovered = [
            seconds_until_all_move(
                steps, since=item.when, settled=item.settled, partitions=set(item.partitions)
            )
            for item in noted.broken
            if item.what == WORKER
        ]
        return {
            "events": books.counts[TRANSACTIONS],
            "labels": books.counts[FEEDBACK],
            "kills": session.cluster.all_kills,
            "lost": harms["lost"],
            "double": harms["double"],
            "conflicting": harms["conflicting"],
            "state_mismatches": harms["state"],
            "found": [str(finding) for finding in findings] + noted.unmet,
            "repeated": sum(books.decisions.repeated.values()),
            "versions_compared": len(books.published),
            "worker_recovery_p95_seconds": p95([item for item in recovered if item is not None]),
            "surprises": session.fleet.surprises,
        }


def _say(line: str) -> None:
    click.echo(line, err=True)


def soak(minutes: float, seed: int, rate: float) -> dict[str, Any]:
    """Run a soak on servers of its own."""
    with TemporaryDirectory(prefix="fraudstream-soak-") as folder:
        settings = chaos_settings(Path(folder), session_seconds=SESSION_SECONDS)
        with Session(settings, _say, seed=seed) as session:
            session.fleet.keep(WORKER, WORKERS)
            session.fleet.keep(TRAINER, 1)
            session.fleet.wait_until_ready(WORKER)
            session.fleet.wait_until_ready(TRAINER)
            run = Soak(session, seed, _say)
            with session.feeding(rate):
                found = run.run(minutes * 60.0)
                # A halted server would keep the publisher waiting for its answers.
                session.heal()
            found |= run.close()
            return found | _seen(run, minutes)


def _seen(run: Soak, minutes: float) -> dict[str, Any]:
    warm_up = min(WARM_UP_SECONDS_MAX, WARM_UP_SHARE * minutes * 60.0)
    lags = run.samples.lags or [0]
    return {
        "faults": dict(run.done),
        "lag_records": {"p50": int(np.median(lags)), "max": max(lags), "last": lags[-1]},
        "warm_up_seconds": warm_up,
        "memory": {
            name: [vars_of(item) for item in run.samples.slopes(name, warm_up)]
            for name in (WORKER, TRAINER)
        },
        "memory_method": "least squares over means of a minute after the warm-up; 95 % by t",
        "memory_unit": "MB an hour",
    }


def vars_of(slope: Slope) -> dict[str, float]:
    """Give a slope as plain values."""
    return {name: getattr(slope, name) for name in Slope.__slots__}


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--rate", default=500.0, show_default=True, help="Transactions a second.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=RESULT, help="Write the JSON there."
)
def main(minutes: float, seed: int, rate: float, out: Path) -> None:
    """Run for long with a fault now and then, and watch memory."""
    found = soak(minutes, seed, rate)
    whole = {"minutes": minutes, "seed": seed, "rate": rate} | found | {"machine": machine()}
    text = json.dumps(whole, indent=1)
    out.write_text(text + "\n", encoding="utf-8")
    click.echo(text)
    sys.exit(bool(found["found"]))


if __name__ == "__main__":
    main()

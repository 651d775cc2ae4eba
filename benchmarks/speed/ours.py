"""The rows that have no rival: trainer, replay, starts, memory, the guarantee, producers."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import redis

from benchmarks.speed.bench import Bench, Found, Row
from benchmarks.speed.cores import pinning
from benchmarks.speed.material import fill, new_cards
from benchmarks.speed.place import OURS, Place, command_of
from benchmarks.speed.rivals import answer, ends_of
from benchmarks.speed.watch import MB, Ends, Usage, watch
from pipeline.durations import DAY_MS
from pipeline.topics import DECISIONS, TRAINING, TRANSACTIONS
from stack.processes import Started
from stack.services import PROGRAM

LABELS = 60_000
START_EVENTS, WARM_STARTS = 1_000, 3
KNOWN_EVENTS, NEW_CARDS = 20_000, 100_000
SHORT_CARDS = 4_000
PUBLISHED, PACED, PACE = 300_000, 25_000, 5_000
SIMULATED, COUNTED, GUARANTEED = 1_000_000, 20_000, 20_000
POLL_SECONDS = 0.01
DECIDED_SECONDS_MAX = 180.0
# What a worker still does for its last batches is over then.
SETTLE_SECONDS = 2.0
DATA = "FRAUDSTREAM_DATA"


def trainer(bench: Bench) -> Found:
    """Let a worker join labels, then a trainer learn all of them from its log."""
    labels = bench.most(LABELS)
    with bench.place() as place:
        place.fill(bench.material, events=labels)
        decisions, training = ends_of(place, DECISIONS), ends_of(place, TRAINING, 1)
        with place.ours("worker", bench.cores.rival) as worker:
            watch("worker", worker, decisions.count, labels, place.pids)
            place.fill_labels(bench.material, step=1, events=labels)
            joined = watch("join", worker, training.count, labels, place.pids, unit="labels")
        with (
            redis.Redis.from_url(place.endpoints.redis_url) as client,
            place.ours("trainer", bench.cores.rival) as started,
        ):
            found = watch(
                "trainer", started, lambda: _learned(client), labels, place.pids, unit="labels"
            )
    beside = ("events_per_second", "worker_cpu_us", "redis_cpu_us")
    return found | {f"join_{name}": joined[name] for name in beside}


def _learned(client: "redis.Redis") -> int:
    position = client.get(f"pos:{TRAINING}")
    assert position is None or isinstance(position, bytes)
    return int(position.partition(b":")[0]) if position else 0


def replay(bench: Bench) -> Found:
    """Replay the same events from a file."""
    return _replayed(bench, bench.file)


def replay_handbook(bench: Bench) -> Found:
    """Replay the Handbook's stream."""
    return _replayed(bench, Path(os.environ[DATA]) / "handbook.parquet", "--schema", "handbook")


def _replayed(bench: Bench, file: Path, *more: str) -> Found:
    given = ["replay", str(file), "--json", "--models", OURS.model, *more]
    found = answer(product(bench, *given))
    names = ("events", "seconds", "events_per_second", "worker_peak_mb", "process_cpu_seconds")
    kept = {name: found[name] for name in names}
    return kept | {"events_per_cpu_second": found["events"] / found["process_cpu_seconds"]}


def product(bench: Bench, *arguments: str) -> list[str]:
    """Give the command that runs the console script on the rival's core."""
    return [sys.executable, "-c", pinning(bench.cores.rival) + PROGRAM, *arguments]


def start(bench: Bench) -> Found:
    """Start a worker with nothing compiled, then some times with all of it there."""
    found: list[float] = []
    with bench.place() as place, place.ours("trainer", bench.cores.others, wait=True):
        cache = f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(place.folder / 'numba')!r}; "
        decisions = ends_of(place, DECISIONS)
        size = min(START_EVENTS, bench.events // (WARM_STARTS + 2))
        for number in range(1 + WARM_STARTS):
            part = bench.material.records[number * size : (number + 1) * size]
            fill(place.endpoints.kafka_servers, TRANSACTIONS, part)
            began = time.perf_counter()
            with place.ours("worker", bench.cores.rival, before=cache) as worker:
                _wait(worker, decisions.count, number * size + 1)
                found.append(time.perf_counter() - began)
                _wait(worker, decisions.count, (number + 1) * size)
    return {"cold_start_seconds": found[0], "warm_start_seconds": median(found[1:])}


def _wait(started: Started, count: Callable[[], int], wanted: int) -> None:
    deadline = time.monotonic() + DECIDED_SECONDS_MAX
    while (seen := count()) < wanted:
        assert not started.failure(), started.failure()
        assert time.monotonic() < deadline, f"{seen} of {wanted} decided"
        time.sleep(POLL_SECONDS)


def memory(bench: Bench) -> Found:
    """Send one event each of many new cards; what worker and Redis have grown by."""
    known = bench.most(KNOWN_EVENTS)
    cards = SHORT_CARDS if bench.is_short else NEW_CARDS
    with (
        bench.place() as place,
        place.ours("trainer", bench.cores.others, wait=True),
        place.ours("worker", bench.cores.rival, wait=True) as worker,
    ):
        decisions = ends_of(place, DECISIONS)
        place.fill(bench.material, events=known)
        before = _memory(place, worker, decisions, known)
        time_ms = int(bench.material.batch.event_time_ms[known - 1]) + DAY_MS
        new = new_cards(cards, settings=OURS, first=0, time_ms=time_ms)
        fill(place.endpoints.kafka_servers, TRANSACTIONS, new)
        after = _memory(place, worker, decisions, known + cards)
    scale = NEW_CARDS / cards
    grown = {f"{name}_mb": (after[name] - before[name]) / MB * scale for name in after}
    return grown | {"worker_before_mb": before["worker"] / MB}


def _memory(place: Place, worker: Started, decisions: Ends, wanted: int) -> dict[str, int]:
    _wait(worker, decisions.count, wanted)
    time.sleep(SETTLE_SECONDS)
    resident = Usage({"worker": worker.process.pid}).sample(0).rss["worker"]
    with redis.Redis.from_url(place.endpoints.redis_url) as client:
        return {"worker": resident, "redis": int(client.info("memory")["used_memory"])}


def guarantee(bench: Bench) -> Found:
    """Compare the fenced commit with none, at batches of 500."""
    out = bench.folder / "guarantee.json"
    given = ["--sizes", "500", "--ways", "fenced,none", "--challengers", "none", "--json"]
    given += ["--rounds", "2", "--events", str(bench.most(GUARANTEED)), "--out", str(out)]
    answer(command_of(bench.cores.all, "benchmarks.guarantee", given))
    costs = {cost["way"]: cost for cost in json.loads(out.read_text(encoding="utf-8"))["costs"]}
    fenced, none = costs["fenced"], costs["none"]
    return {
        "share_at_500": 1 - fenced["events_per_second"] / none["events_per_second"],
        "cpu_share_at_500": 1 - none["cpu_us_per_event"] / fenced["cpu_us_per_event"],
        "fenced_events_per_second": fenced["events_per_second"],
        "fenced_cpu_us": fenced["cpu_us_per_event"],
        "none_cpu_us": none["cpu_us_per_event"],
    }


def counts(bench: Bench) -> Found:
    """Count calls and commands, which are the same on every machine."""
    events = str(bench.most(COUNTED))
    return answer(command_of(bench.cores.all, "benchmarks.speed.counting", [events]))


def publisher(bench: Bench) -> Found:
    """Run `fraudstream publish`, as fast as it goes and at a pace."""
    with bench.place() as place:
        fast = _published(bench, place, bench.most(PUBLISHED))
        seconds = 1 if bench.is_short else PACED // PACE
        paced = _published(bench, place, PACE * seconds, "--rate", str(PACE))
    return fast | {f"events_per_second_at_{PACE}": paced["events_per_second"]}


def _published(bench: Bench, place: Place, events: int, *more: str) -> Found:
    servers = f"--kafka-servers={place.endpoints.kafka_servers}"
    given = [servers, f"--state-dir={place.folder}", "--simulate", "--no-labels", "--json"]
    found = answer(product(bench, "publish", *given, "--limit", str(events), *more))
    rate = found["transactions"] / found["seconds"]
    assert found["transactions"] == events, f"{found['transactions']} of {events} published"
    cpu = found["transactions"] / found["process_cpu_seconds"]
    peak = found["worker_peak_mb"]
    return {"events_per_second": rate, "events_per_cpu_second": cpu, "worker_peak_mb": peak}


def simulator(bench: Bench) -> Found:
    """Make events and throw them away."""
    events = bench.events if bench.is_short else SIMULATED
    return answer(command_of(bench.cores.rival, "benchmarks.speed.simulating", [str(events)]))


# Only where its data is.
HANDBOOK = Row("replay-handbook", "`fraudstream replay`, the Handbook's stream", replay_handbook, 1)
ROWS = (
    Row("replay", "`fraudstream replay`, the same events from a file", replay),
    *([HANDBOOK] if os.environ.get(DATA) else []),
    Row("trainer", "fraudstream trainer, labels a second", trainer),
    Row("start", "cold and warm start", start, 1),
    Row("memory", "memory of 100,000 cards", memory, 1),
    Row("guarantee", "what the guarantee costs", guarantee),
    Row("counts", "calls and commands an event", counts, 1),
    Row("publisher", "`fraudstream publish`", publisher, 2),
    Row("simulator", "the simulator alone", simulator),
)

"""The rows of throughput: our worker, and what one would write instead, on the same events."""

import json
import os
import subprocess
import time
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Any

import psutil
import redis

from benchmarks.speed.bench import Bench, Found, Row
from benchmarks.speed.material import EVENTS_A_LABEL
from benchmarks.speed.place import Place, command_of
from benchmarks.speed.warming import warm
from benchmarks.speed.watch import MB, Ends, watch
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRAINING

# About ten seconds each at what they were seen to do.
FAUST_EVENTS, QUIX_EVENTS, RIVER_EVENTS = 40_000, 250_000, 300_000
OUTPUT = "rival-decisions"
# Memory is looked at so often.
PEAK_SECONDS = 0.02


def worker(bench: Bench) -> Found:
    """Run a worker with a trainer beside it, labels for a tenth of the events waiting."""
    with bench.place() as place:
        place.fill_labels(bench.material, step=EVENTS_A_LABEL)
        events = place.fill(bench.material)
        warm(place, is_short=bench.is_short)
        with place.ours("trainer", bench.cores.others, wait=True) as trainer:
            pids = place.pids | {"trainer": trainer.process.pid}
            ends, training = ends_of(place, DECISIONS), ends_of(place, TRAINING, 1)
            before = commands_of(place)
            with place.ours("worker", bench.cores.rival) as started:
                found = watch("worker", started, ends.count, events, pids)
                joined = training.count()
                labels = -(-events // EVENTS_A_LABEL)
                found["labels_joined_share"] = joined / labels
                found |= _commands(before, commands_of(place), events)
                ended = time.perf_counter()
                watch("labels", started, training.count, labels, pids, unit="labels")
                # Labels that were put off are made up for: then all that was asked is done.
                more = time.perf_counter() - ended
                found["events_per_second_with_labels"] = found["events"] / (found["seconds"] + more)
        check_clean(place, ends.count(), events)
    return found


def check_clean(place: Place, decided: int, events: int) -> None:
    """Refuse a figure of a run in which something went wrong."""
    dead = ends_of(place, DEAD_LETTERS).count()
    assert decided == events and not dead, f"{decided} of {events} decided, {dead} dead letters"


def ends_of(place: Place, topic: str, partitions: int | None = None) -> Ends:
    """Give the counter of a topic's records."""
    ends = Ends(place.endpoints.kafka_servers, topic, partitions or place.settings.partitions)
    place.at_end.callback(ends.close)
    return ends


def commands_of(place: Place) -> dict[str, int]:
    """Ask Redis what it has done."""
    with redis.Redis.from_url(place.endpoints.redis_url) as client:
        stats = client.info("stats")
    names = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")
    return {name: int(stats[name]) for name in names}


def _commands(before: dict[str, int], after: dict[str, int], events: int) -> Found:
    commands, received, sent = (after[name] - before[name] for name in before)
    return {
        "redis_commands_per_1000_events": commands / events * 1_000,
        "redis_bytes_in_per_event": received / events,
        "redis_bytes_out_per_event": sent / events,
    }


def naive_faust(bench: Bench) -> Found:
    """Run the application that both documentations teach."""
    return _rival(bench, "naive_faust", FAUST_EVENTS, ("{servers}", "{partitions}", OUTPUT))


def quix_at_least_once(bench: Bench) -> Found:
    """Run Quix Streams as it comes."""
    return _rival(bench, "quix", QUIX_EVENTS, ("{servers}", OUTPUT, "at-least-once"))


def quix_exactly_once(bench: Bench) -> Found:
    """Run Quix Streams with transactions."""
    return _rival(bench, "quix", QUIX_EVENTS, ("{servers}", OUTPUT, "exactly-once"))


def plain_loop(bench: Bench) -> Found:
    """Run our kernel without any guarantee."""
    return _rival(bench, "plain_loop", bench.events, ("{servers}", OUTPUT))


def _rival(bench: Bench, module: str, most: int, arguments: tuple[str, ...]) -> Found:
    wanted = bench.most(most)
    with bench.place() as place:
        place.fill(bench.material)
        place.create_topic(OUTPUT)
        warm(place, is_short=bench.is_short)
        given = [
            text.format(servers=place.endpoints.kafka_servers, partitions=place.settings.partitions)
            for text in arguments
        ]
        ends = ends_of(place, OUTPUT)
        with place.rival(f"benchmarks.speed.{module}", *given) as started:
            return watch(module, started, ends.count, wanted, place.pids)


def river_alone(bench: Bench) -> Found:
    """Run River over events in memory."""
    events = bench.most(RIVER_EVENTS)
    command = command_of(bench.cores.rival, "benchmarks.speed.river_alone", [str(events)])
    return answer(command)


def answer(command: list[str]) -> Found:
    """Run a command that prints one JSON object last; gives its numbers, and what it took."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        watched, peak, pid = psutil.Process(process.pid), 0, 0
        while not pid:
            # Not `ru_maxrss`: Linux lets a child begin with the peak of whoever started it.
            with suppress(psutil.Error):
                peak = max(peak, watched.memory_info().rss)
            time.sleep(PEAK_SECONDS)
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, errors):
            file.seek(0)
        assert not process.returncode, f"{command[3:]}: {errors.read()[-2_000:]}"
        said = last_object(out.read())
    found = {name: value for name, value in said.items() if type(value) in (int, float)}
    return found | {
        "worker_peak_mb": peak / MB,
        "process_cpu_seconds": used.ru_utime + used.ru_stime,
    }


def last_object(text: str) -> dict[str, Any]:
    """Read the JSON object that a text ends with, on one line or on many.

    >>> last_object("a line" + chr(10) + '{' + chr(10) + ' "a": {"b": 1}' + chr(10) + '}')
    {'a': {'b': 1}}
    """
    start = text.rfind("\n{")
    found: dict[str, Any] = json.loads(text[start + 1 :])
    return found


ROWS = (
    Row("worker", "fraudstream worker, all guarantees", worker),
    Row("naive-faust", "Faust and River as documented", naive_faust),
    Row("quix-at-least-once", "Quix Streams, toy features, at least once", quix_at_least_once),
    Row("quix-exactly-once", "Quix Streams, toy features, exactly once", quix_exactly_once),
    Row("plain-loop", "plain loop with our kernel, no guarantee", plain_loop),
    Row("river", "River alone, toy features, no Kafka", river_alone),
)

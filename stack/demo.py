"""`fraudstream demo`: the whole road on this machine, live, and nothing left running.

Embedded servers, a worker and a trainer run as processes that end with this one, whatever ends it.
The monitor and the publisher run in threads here, so that the view reads their numbers directly.
"""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from consumers.endpoint import TARGETS_FOLDER
from consumers.monitor import MonitorProcess, build_monitor
from consumers.review_queue import ReviewQueue
from pipeline.durations import parse_duration
from pipeline.errors import StackError
from pipeline.schema import load_schema
from pipeline.settings import ACT, Settings
from pipeline.signing import LabelSigner
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, Progress, Watch, publish
from producers.simulator import SimulatorOptions, simulate
from stack.command_settings import current_settings
from stack.demo_view import DemoState, live_view, summary
from stack.redis_clients import redis_client
from stack.servers import Endpoints, Stack, find_endpoints
from stack.services import services

# A small world: some 3,800 transactions a day, so that weeks pass in a minute.
CUSTOMERS = 2_000
TERMINALS = 4_000
EVENTS_A_DAY = 3_800
SCHEMA = "card"
LABEL_DELAY = "7d"
QUALITY_WINDOW_EVENTS = 20_000
# A day of the demo is less than a second.
SNAPSHOT_INTERVAL_SECONDS = 0.5
# How long the last decisions and labels may take after the last event was published.
DRAIN_SECONDS_MAX = 60.0
READY_SECONDS_MAX = 60.0
REFRESH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo does: how many events, how many a second, from which seed."""

    events: int
    rate: float
    seed: int


@click.command()
@click.option("--events", default=200_000, show_default=True, help="End after so many events.")
@click.option("--rate", default=4_000.0, show_default=True, help="Events a second.")
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same events.")
def demo(events: int, rate: float, seed: int) -> None:
    """Show everything at once: transactions scored, labels learned, quality rising.

    Simulated card traffic goes through a real Kafka and a real Redis on this machine; labels come
    seven days of event time later. Ends by itself, or with Ctrl-C; nothing is left running.
    """
    settings = current_settings()
    state_dir = (Path(settings.state_dir) / "demo").absolute()
    settings = replace(
        settings.embedded(),
        state_dir=str(state_dir),
        schema=SCHEMA,
        # Its payments are made up: what is decided is done.
        mode=ACT,
        # Its own, made with its servers.
        keys_dir="",
        metrics_port=0,
        quality_window_events=QUALITY_WINDOW_EVENTS,
        snapshot_interval_seconds=SNAPSHOT_INTERVAL_SECONDS,
    )
    if find_endpoints(state_dir) is not None:
        raise StackError(f"a demo runs already in {state_dir}: let it end, or stop it with Ctrl-C")
    shutil.rmtree(state_dir, ignore_errors=True)
    state = DemoState(events)
    try:
        _run(settings, DemoOptions(events, rate, seed), state)
    finally:
        summary(state)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _run(settings: Settings, options: DemoOptions, state: DemoState) -> None:
    with ExitStack() as running:
        endpoints = running.enter_context(Stack(settings, attached=True, say=_say))
        beside = running.enter_context(services(("worker", "trainer"), settings, endpoints, _say))
        monitor = running.enter_context(_monitor(settings, endpoints))
        state.addresses = _addresses(settings, endpoints)
        queue = ReviewQueue(
            redis_client(endpoints.redis_url),
            endpoints.kafka_servers,
            load_schema(SCHEMA),
            settings.partitions,
        )
        publisher = running.enter_context(_publisher(options, settings, endpoints, state))
        with live_view(state) as refresh:
            while not _is_done(state, publisher):
                for service in beside:
                    if failure := service.failure():
                        raise StackError(f"a process of the demo {failure}")
                state.look(monitor.view(), queue.alerts(5), queue.count())
                refresh()
                time.sleep(REFRESH_SECONDS)
        state.look(monitor.view(), queue.alerts(5), queue.count())


def _is_done(state: DemoState, publisher: threading.Thread) -> bool:
    """Say whether every event was decided and every label learned, or time is up."""
    if publisher.is_alive():
        return False
    if state.published is None:
        raise StackError("the publisher failed: see the error above")
    if state.is_complete:
        return True
    return time.monotonic() - state.published_at > DRAIN_SECONDS_MAX


@contextmanager
def _monitor(settings: Settings, endpoints: Endpoints) -> Iterator[MonitorProcess]:
    """Run a monitor in a thread for the length of the block."""
    monitor = build_monitor(settings, kafka_servers=endpoints.kafka_servers)
    ended, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=monitor.run, args=(ended, lambda port: ready.set()))
    thread.start()
    try:
        ready.wait(READY_SECONDS_MAX)
        yield monitor
    finally:
        ended.set()
        thread.join()


@contextmanager
def _publisher(
    options: DemoOptions, settings: Settings, endpoints: Endpoints, state: DemoState
) -> Iterator[threading.Thread]:
    """Publish simulated traffic in a thread; it ends with the block."""
    ended = threading.Event()
    world = SimulatorOptions(
        customers=CUSTOMERS,
        terminals=TERMINALS,
        days=2 * options.events // EVENTS_A_DAY + 2,
        seed=options.seed,
    )
    labels = LabelOptions(delay_ms=parse_duration(LABEL_DELAY))
    signer = LabelSigner.of(settings)

    def report(progress: Progress) -> None:
        state.progress = progress

    def run() -> None:
        state.published = publish(
            limited(simulate(world), options.events),
            load_schema(SCHEMA),
            endpoints.kafka_servers,
            pace=Pace(rate=options.rate),
            labels=labels,
            signer=signer,
            watch=Watch(stop=ended.is_set, progress=report, total=options.events),
        )
        state.published_at = time.monotonic()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        ended.set()
        thread.join()


def _addresses(settings: Settings, endpoints: Endpoints) -> dict[str, str]:
    """Say where metrics are, by the name of who serves them."""
    found = {}
    for file in sorted((Path(settings.state_dir) / TARGETS_FOLDER).glob("*.json")):
        for entry in json.loads(file.read_text(encoding="ascii")):
            found[entry["labels"]["job"]] = f"http://{entry['targets'][0]}/metrics"
    if endpoints.prometheus_url:
        found["prometheus"] = endpoints.prometheus_url
    return found

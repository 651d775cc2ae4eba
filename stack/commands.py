"""`fraudstream up`, `down`, `status` and `topics`.

The answer goes to stdout, progress to stderr. The settings come as the context's object.
"""

import signal
import threading
from contextlib import ExitStack

import click
import msgspec

from stack.command_settings import current_settings
from stack.connections import endpoints_of, kafka_servers_of
from stack.servers import Endpoints, ServerStatus, Stack
from stack.supervisor import Supervisor
from stack.topic_setup import create_topics

MEGABYTE = 1_000_000
LOOK_SECONDS = 0.5


@click.command()
@click.option(
    "--workers",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Also run so many workers, a trainer and a monitor, until Ctrl-C.",
)
def up(workers: int) -> None:
    """Start Kafka, Redis and, where installed, Prometheus on this machine.

    They go on after this command; `fraudstream down` stops them and keeps their data. What runs
    already is left as it is.

    With --workers this command stays, and starts each process again that ends. Where kafka_servers
    and redis_url are both set, they run on those, and no server is started.
    """
    settings = current_settings()
    with ExitStack() as running:
        if workers and settings.kafka_servers and settings.redis_url:
            endpoints = endpoints_of(settings)
        else:
            endpoints = _stack().up()
        for name, address in _named(endpoints):
            click.echo(f"{name:<12}{address}")
        if workers:
            names = ("trainer", "monitor", *["worker"] * workers)
            supervise(running.enter_context(Supervisor(names, settings, endpoints, _say)))


def supervise(supervisor: Supervisor) -> None:
    """Look after processes until SIGTERM or SIGINT."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(LOOK_SECONDS):
        supervisor.look()
    _say("stopping")


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
def down() -> None:
    """Stop the servers that `fraudstream up` started; their data stays."""
    stopped = _stack().down()
    click.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing runs")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def status(as_json: bool) -> None:
    """Show which of the servers run, where, and how much memory they occupy."""
    for server in _stack().status():
        click.echo(msgspec.json.encode(server).decode() if as_json else _line(server))


@click.command()
def topics() -> None:
    """Create the topics that are missing.

    On the Kafka of `kafka_servers`, or on the embedded one when that is empty.
    """
    settings = current_settings()
    created = create_topics(kafka_servers_of(settings), settings)
    click.echo(f"created {', '.join(created)}" if created else "all topics exist")


def _stack() -> Stack:
    return Stack(current_settings(), attached=False, say=_say)


def _named(endpoints: Endpoints) -> list[tuple[str, str]]:
    found = [("kafka", endpoints.kafka_servers), ("redis", endpoints.redis_url)]
    prometheus = endpoints.prometheus_url
    return found + ([("prometheus", prometheus)] if prometheus is not None else [])


def _line(server: ServerStatus) -> str:
    if not server.running:
        return f"{server.name:<12}stopped"
    return (
        f"{server.name:<12}running  {server.version:<8}pid {server.pid:<9}"
        f"{server.memory_bytes / MEGABYTE:>6,.0f} MB  {server.address}"
    )

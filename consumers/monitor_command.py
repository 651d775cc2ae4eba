"""`fraudstream monitor`."""

import signal
import threading

import click

from consumers.monitor import run_monitor
from consumers.serving import parts, say_ready
from stack.check_kafka import demand_permissions
from stack.roles import ROLES


@click.command()
@click.option("--from-end", is_flag=True, help="Know nothing of what came before the start.")
def monitor(from_end: bool) -> None:
    """Measure quality and drift of what was decided, and serve them as metrics.

    It reads the logs from their beginning, and changes nothing. With --from-end the references of
    drift are pinned anew: that of the scores at once, that of the features after a month.
    """
    settings, _, endpoints = parts()
    demand_permissions(endpoints.kafka_servers, settings, ROLES["monitor"])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_monitor(
        settings,
        kafka_servers=endpoints.kafka_servers,
        stop=stop,
        on_ready=lambda port: say_ready("monitor", port, settings),
        from_start=not from_end,
    )

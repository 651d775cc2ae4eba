"""Fresh servers for one measurement, and the processes that run on them."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.speed.cores import Cores, pinning
from benchmarks.speed.material import LABEL_DELAY_MS, Material, client, fill
from pipeline.settings import Settings
from pipeline.signing import LabelSigner
from pipeline.topics import FEEDBACK, TRANSACTIONS
from stack.processes import Started, start
from stack.servers import Endpoints, Stack
from stack.services import PROGRAM, start_service, stop_services, wait_until_ready

ROOT = Path(__file__).parents[2]
MODULE = "import sys, runpy; sys.path.insert(0, {root!r}); sys.argv.pop(0); "
RUN = "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
CREATED_SECONDS_MAX = 30.0
SERVERS = ("kafka", "redis")
# The product as the bar names it: the champion alone, every guarantee on.
OURS = replace(Settings(), model="additive", challengers="none")


@dataclass(slots=True)
class Place:
    """Kafka and Redis with their topics, and what is started on them."""

    settings: Settings
    endpoints: Endpoints
    cores: Cores
    pids: dict[str, int]
    at_end: ExitStack

    @property
    def folder(self) -> Path:
        """Where logs and state go."""
        return Path(self.settings.state_dir)

    def fill(self, material: Material, *, events: int | None = None) -> int:
        """Put the events, or the first of them, into `transactions`."""
        return fill(self.endpoints.kafka_servers, TRANSACTIONS, material.records[:events])

    def fill_labels(self, material: Material, *, step: int, events: int | None = None) -> int:
        """Put a label for one event in `step` into `feedback`."""
        signer = LabelSigner.of(self.settings)
        labels = material.labels(signer, step=step, delay_ms=LABEL_DELAY_MS, events=events)
        return fill(self.endpoints.kafka_servers, FEEDBACK, labels)

    def create_topic(self, name: str) -> None:
        """Create a topic with as many partitions as the events have."""
        admin = AdminClient(client(self.endpoints.kafka_servers))
        made = admin.create_topics([NewTopic(name, self.settings.partitions, 1)])
        made[name].result(CREATED_SECONDS_MAX)

    @contextmanager
    def ours(
        self, name: str, cores: AbstractSet[int], *, before: str = "", wait: bool = False
    ) -> Iterator[Started]:
        """Run `worker` or `trainer` as the stack does; `before` is what Python does first."""
        service = start_service(
            name,
            self.settings,
            self.endpoints,
            log=self.folder / f"{name}.log",
            program=pinning(cores) + before + PROGRAM,
        )
        try:
            if wait:
                wait_until_ready(name, service)
            yield service
        finally:
            stop_services([service])

    @contextmanager
    def rival(self, module: str, *arguments: str) -> Iterator[Started]:
        """Run a module of this package on the rival's core."""
        started = start(
            command_of(self.cores.rival, module, arguments),
            folder=self.folder,
            log=self.folder / f"{module.rpartition('.')[2]}.log",
            attached=True,
        )
        try:
            yield started
        finally:
            stop_services([started])


def command_of(cores: Iterable[int], module: str, arguments: Sequence[str]) -> list[str]:
    """Give the command that runs a module on cores."""
    program = pinning(set(cores)) + MODULE.format(root=str(ROOT)) + RUN
    return [sys.executable, "-c", program, module, *arguments]


@contextmanager
def fresh_place(cores: Cores, settings: Settings = OURS) -> Iterator[Place]:
    """Start servers on a new folder for the length of the block."""
    with TemporaryDirectory(prefix="fraudstream-bench-") as folder:
        settings = replace(settings, state_dir=folder)
        stack = Stack(settings, attached=True, say=_quiet)
        with stack as endpoints, ExitStack() as at_end:
            pids = {item.name: item.pid or 0 for item in stack.status() if item.name in SERVERS}
            yield Place(settings, endpoints, cores, pids, at_end)


def _quiet(line: str) -> None:
    """Say nothing of servers that start again and again."""


def say(line: str) -> None:
    """Tell who waits."""
    click.echo(line, err=True)

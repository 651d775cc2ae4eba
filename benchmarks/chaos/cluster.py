"""Real servers whose processes can be killed, halted and started again, each by itself."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from redis import Redis

from benchmarks.chaos.fleet import Fleet
from pipeline.settings import Settings
from stack import broker, store_server
from stack.servers import Endpoints, Stack

KAFKA, REDIS = broker.NAME, store_server.NAME
POLL_SECONDS = 0.02
END_SECONDS_MAX = 30.0


class Cluster:
    """Kafka, Redis, and a fleet on them, for the length of a `with` block.

    With `endpoints` the servers are others' and only the fleet is broken.
    """

    def __init__(
        self, settings: Settings, say: Callable[[str], None], endpoints: Endpoints | None = None
    ) -> None:
        self._stack = Stack(settings, attached=True, say=say)
        self._given = endpoints
        self._settings = settings
        self.kills: list[float] = []

    def __enter__(self) -> "Cluster":
        self.endpoints = self._given or self._stack.up()
        self.settings = replace(
            self._settings,
            kafka_servers=self.endpoints.kafka_servers,
            redis_url=self.endpoints.redis_url,
        )
        self.redis: Redis = Redis.from_url(self.endpoints.redis_url)
        self.fleet = Fleet(self.settings, self.endpoints)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in (KAFKA, REDIS):
            with suppress(ProcessLookupError, LookupError):
                self.send(name, signal.SIGCONT)
        self.fleet.close()
        self.redis.close()
        if self._given is None:
            self._stack.down()

    def folder(self, name: str) -> Path:
        """Give where a server keeps its data."""
        return Path(self._settings.state_dir).absolute() / name

    def pid(self, name: str) -> int:
        """Give a server's process id; `LookupError` when it does not run."""
        for status in self._stack.status():
            if status.name == name and status.pid is not None:
                return status.pid
        raise LookupError(f"{name} does not run")

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a server."""
        os.kill(self.pid(name), number)

    def end(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a server a signal that ends it, and wait until it is gone."""
        if number == signal.SIGKILL:
            self.kills.append(time.monotonic())
        self.send(name, number)
        deadline = time.monotonic() + END_SECONDS_MAX
        while self.runs(name):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} does not end")
            time.sleep(POLL_SECONDS)

    def runs(self, name: str) -> bool:
        """Say whether a server's process is there."""
        try:
            self.pid(name)
        except LookupError:
            return False
        return True

    def start_servers(self) -> None:
        """Start the servers that do not run, where they were before."""
        if self._given is None:
            self._stack.up()

    @property
    def all_kills(self) -> int:
        """Sudden ends of servers, workers and trainers until now."""
        return len(self.kills) + len(self.fleet.kills)

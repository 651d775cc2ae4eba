"""The embedded servers as one thing that is up or down.

Detached, they go on after the command that started them; `stack.json` in the state directory
holds who they are. Attached, they end with the process that started them, however it ends.
Ports stay the same from one start to the next where they are free, so clients reconnect.
"""

import fcntl
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from pipeline.errors import StackError
from pipeline.keys import init_keys
from pipeline.settings import Settings
from stack import broker, prometheus_server, store_server
from stack.launch import Launch
from stack.processes import (
    Identity,
    Started,
    identify,
    is_alive,
    resident_bytes,
    start,
    stop,
)
from stack.topic_setup import create_topics

RECORD = "stack.json"
LOCK = "stack.lock"
# A first start downloads Kafka; whoever comes second waits for it.
LOCK_SECONDS_MAX = 120.0
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.02
START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers are; `prometheus_url` is `None` when it is not installed."""

    kafka_servers: str
    redis_url: str
    prometheus_url: str | None


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server as `fraudstream status` shows it."""

    name: str
    running: bool
    pid: int | None
    address: str
    version: str
    memory_bytes: int


class _Server(msgspec.Struct, frozen=True):
    identity: Identity
    address: str
    version: str


class _Record(msgspec.Struct, frozen=True):
    """`stack.json`: the servers that were started, and the ports of earlier ones."""

    servers: dict[str, _Server] = {}
    ports: dict[str, dict[str, int]] = {}

    def alive(self) -> dict[str, _Server]:
        found = self.servers.items()
        return {name: server for name, server in found if is_alive(server.identity)}


def find_endpoints(state_dir: Path) -> Endpoints | None:
    """Give the endpoints of the servers that run on a state directory; `None` when they do not."""
    return _endpoints(_read(state_dir).alive())


def _endpoints(alive: dict[str, _Server]) -> Endpoints | None:
    if broker.NAME not in alive or store_server.NAME not in alive:
        return None
    prometheus = alive.get(prometheus_server.NAME)
    return Endpoints(
        kafka_servers=alive[broker.NAME].address,
        redis_url=alive[store_server.NAME].address,
        prometheus_url=prometheus.address if prometheus else None,
    )


class Stack:
    """Kafka, Redis and, where installed, Prometheus on one state directory.

    `with Stack(settings, attached=True, say=say) as endpoints` runs them for the length of the
    block. `say` gets one line of progress at a time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        attached: bool,
        say: Callable[[str], None],
        lock_seconds_max: float = LOCK_SECONDS_MAX,
    ) -> None:
        self._settings = settings
        self._attached = attached
        self._say = say
        self._lock_seconds_max = lock_seconds_max
        self._state_dir = Path(settings.state_dir).absolute()
        self._started: dict[str, Started] = {}

    def __enter__(self) -> Endpoints:
        return self.up()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()

    def up(self) -> Endpoints:
        """Start what does not run yet, and wait until it can be used."""
        with self._locked():
            earlier = set(self._started)
            try:
                endpoints = self._started_endpoints()
                create_topics(endpoints.kafka_servers, self._settings)
                if made := init_keys(self._settings.keys_path):
                    self._say(f"keys made in {self._settings.keys_path}: {', '.join(made)}")
            except BaseException:
                self._stop(set(self._started) - earlier)
                raise
        return endpoints

    def down(self) -> list[str]:
        """Stop the servers and name them: an attached stack stops those that it started itself."""
        if not self._state_dir.exists():
            return []
        with self._locked():
            names = set(_read(self._state_dir).alive())
            return self._stop(set(self._started) if self._attached else names)

    def status(self) -> list[ServerStatus]:
        """Describe each server, whether it runs or not."""
        record = _read(self._state_dir)
        known = dict.fromkeys((broker.NAME, store_server.NAME, *record.servers))
        return [_status(name, record.servers.get(name)) for name in known]

    def _started_endpoints(self) -> Endpoints:
        # One that was being killed may have been counted as running: then it is seen missing now.
        for _ in range(START_ATTEMPTS):
            self._start_missing()
            endpoints = find_endpoints(self._state_dir)
            if endpoints is not None:
                return endpoints
        raise StackError(f"a server ended right after its start: see {self._state_dir}")

    def _start_missing(self) -> None:
        record = _read(self._state_dir)
        alive = record.alive()
        launches = []
        # The slowest first: the others are prepared while it starts.
        for name, prepare in self._preparations(record.ports).items():
            launch = None if name in alive else prepare()
            if launch is not None:
                self._start(launch)
                launches.append(launch)
        deadline = time.monotonic() + READY_SECONDS_MAX
        for launch in launches:
            self._wait(launch, deadline)

    def _preparations(
        self, ports: dict[str, dict[str, int]]
    ) -> dict[str, Callable[[], Launch | None]]:
        def of(name: str) -> tuple[Path, dict[str, int]]:
            return self._state_dir / name, ports.get(name, {})

        prometheus = prometheus_server
        return {
            broker.NAME: lambda: broker.prepare_broker(*of(broker.NAME), self._say),
            store_server.NAME: functools.partial(
                store_server.prepare_store, self._state_dir / store_server.NAME, self._say
            ),
            prometheus.NAME: lambda: prometheus.prepare_prometheus(*of(prometheus.NAME)),
        }

    def _start(self, launch: Launch) -> None:
        self._say(f"{launch.name} {launch.version}: starting")
        if launch.name in self._started:
            # It was started here before, and has died since.
            self._started.pop(launch.name).release()
        started = start(
            launch.command, folder=launch.folder, log=launch.log, attached=self._attached
        )
        self._started[launch.name] = started
        identity = identify(started.process.pid)
        if identity is None:
            raise StackError(f"{launch.name} {started.failure()}")
        record = _read(self._state_dir)
        server = _Server(identity, launch.address, launch.version)
        _write(
            self._state_dir,
            _Record(
                servers={**record.servers, launch.name: server},
                ports={**record.ports, launch.name: launch.ports},
            ),
        )

    def _wait(self, launch: Launch, deadline: float) -> None:
        started = self._started[launch.name]
        while not launch.is_ready():
            failure = started.failure()
            if failure is not None:
                raise StackError(f"{launch.name} {failure}")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{launch.name} is not ready after {READY_SECONDS_MAX:.0f} s: see {launch.log}"
                )
            time.sleep(POLL_SECONDS)

    def _stop(self, names: set[str]) -> list[str]:
        record = _read(self._state_dir)
        recorded = {each.identity for name, each in record.servers.items() if name in names}
        # One that has died by itself is released as well.
        own = {
            name
            for name, started in self._started.items()
            if name in names or started.process.poll() is not None
        }
        # An interrupt may have come between a start and its record.
        children = [identify(self._started[name].process.pid) for name in own]
        stop(recorded.union(child for child in children if child is not None))
        for name in own:
            self._started.pop(name).release()
        left = {name: server for name, server in record.alive().items() if name not in names}
        _write(self._state_dir, _Record(servers=left, ports=record.ports))
        return sorted(names)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep a second `up` or `down` out; the lock ends with its process."""
        try:
            self._state_dir.mkdir(parents=True, exist_ok=True)
            file = (self._state_dir / LOCK).open("w")
        except OSError as error:
            raise StackError(
                f"state_dir {self._state_dir} cannot be written: {error.strerror}"
            ) from error
        with file:
            self._take(file)
            yield

    def _take(self, file: IO[str]) -> None:
        deadline = time.monotonic() + self._lock_seconds_max
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StackError(
                        f"state_dir {self._state_dir} is busy: another command has been starting "
                        f"or stopping its servers for {self._lock_seconds_max:.0f} s"
                    ) from None
            time.sleep(POLL_SECONDS)


def _status(name: str, server: _Server | None) -> ServerStatus:
    if server is None or not is_alive(server.identity):
        return ServerStatus(name, False, None, "", "", 0)
    memory = resident_bytes(server.identity)
    return ServerStatus(name, True, server.identity.pid, server.address, server.version, memory)


def _read(state_dir: Path) -> _Record:
    path = state_dir / RECORD
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (FileNotFoundError, NotADirectoryError):
        return _Record()
    except (OSError, msgspec.DecodeError) as error:
        raise StackError(
            f"{path} cannot be read ({error}): end its servers by hand and delete it"
        ) from error


def _write(state_dir: Path, record: _Record) -> None:
    partial = state_dir / f"{RECORD}.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    partial.replace(state_dir / RECORD)

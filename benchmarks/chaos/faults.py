"""The faults as verbs: what an action of a case does to a session.

Each notes what it must be judged by: when something was broken and which partitions that held up,
how long an end took, and what was expected and did not come.
"""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kafka import TopicPartition
from kafka.errors import NoError
from kafka.structs import OffsetAndMetadata

from benchmarks.chaos.bad_snapshots import publish_bad_snapshots
from benchmarks.chaos.cluster import KAFKA, REDIS
from benchmarks.chaos.fleet import Life
from benchmarks.chaos.held import LiveStore
from benchmarks.chaos.launcher import FAIL_POINTS, FailPoint, Orders
from benchmarks.chaos.session import Session
from benchmarks.chaos.traffic import Feeder
from pipeline.topics import FEEDBACK, TRANSACTIONS
from stack.topic_setup import administration, create_topics

WORKER, TRAINER = "worker", "trainer"
# A fail-point is reached by traffic: within this time, or the traffic does not flow.
ARMED_SECONDS_MAX = 120.0
MOVED_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 10.0
# A store that went back in time, and all processes started anew.
PUT_BACK = "redis put back"
BALLAST = "ballast"
CUT_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that was broken at a moment, and the partitions that stood still for it.

    `settled` is when it was gone for certain: until then they may have moved for the last time.
    """

    what: str
    when: float
    settled: float
    partitions: frozenset[int]


@dataclass
class Noted:
    """What the actions of a case leave behind."""

    broken: list[Broken] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    # By partition, offsets of transactions and numbers of examples that Redis forgot.
    window: dict[int, tuple[int, int]] = field(default_factory=dict)
    examples_window: dict[int, tuple[int, int]] = field(default_factory=dict)


class Faults:
    """Breaks a session; `feeder` is the traffic that goes on meanwhile."""

    def __init__(
        self, session: Session, chance: random.Random, feeder: Feeder | None = None
    ) -> None:
        self._session, self._chance, self._feeder = session, chance, feeder
        self._cluster, self._fleet = session.cluster, session.fleet
        self._alone: list[Life] = []
        self.noted = Noted()

    def close(self) -> None:
        """Take away what only this case wanted."""
        for life in self._alone:
            if life.is_alive:
                self._fleet.end(life)
        for life in self._fleet.lives:
            if life.is_alive:
                life.control.unlink(missing_ok=True)

    def _expect(self, holds: object, text: str) -> None:
        if not holds:
            self.noted.unmet.append(text)

    @property
    def _all(self) -> frozenset[int]:
        return frozenset(range(self._session.settings.partitions))

    def _note(
        self, what: str, when: float, partitions: set[int] | frozenset[int] | None = None
    ) -> None:
        given = self._all if partitions is None else frozenset(partitions)
        self.noted.broken.append(Broken(what, when, time.monotonic(), given))

    # Workers and trainers.

    def kill(self, name: str = WORKER, place: int | None = None, measured: bool = True) -> None:
        """Kill one of a kind; without a place, any that is at work."""
        life = self._any(name) if place is None else self._fleet.life(name, place)
        if not life.is_alive:
            return
        when, held = time.monotonic(), life.partitions
        self._fleet.kill(life)
        if name == WORKER and measured and held:
            self._note(WORKER, when, held)

    def _any(self, name: str) -> Life:
        """Give a ready one, one that works on something before one that does not."""
        lives = self._fleet.alive(name)
        ready = [life for life in lives if life.is_ready]
        busy = [life for life in ready if life.partitions]
        return self._chance.choice(busy or ready or lives)

    def kill_when_ready(self, name: str = TRAINER, seconds: float = 1.0) -> None:
        """Wait until the next one is ready, let it work for a moment, and kill it."""
        self._fleet.wait_until_ready(name)
        time.sleep(self._chance.random() * seconds)
        self.kill(name, measured=False)

    def fail(self, point: FailPoint, name: str = WORKER) -> None:
        """Let one die at a point of its commit, and wait for that."""
        self._fleet.wait_until_ready(name)
        life = self._any(name)
        self._fleet.order(life, Orders(fail_at=point, after=self._chance.randint(1, 5)))
        self._fleet.wait(lambda: not life.is_alive, f"{name} fails {point}", ARMED_SECONDS_MAX)

    def arm(self, name: str = WORKER, place: int | None = None) -> None:
        """Let one die at a point of its commit, some time or never."""
        life = self._any(name) if place is None else self._fleet.life(name, place)
        chosen = self._chance.choice(FAIL_POINTS)
        self._fleet.order(life, Orders(fail_at=chosen, after=self._chance.randint(1, 9)))

    def halt(self, place: int = 0, name: str = WORKER) -> None:
        """Halt one as SIGSTOP does: it does not know that time passes."""
        life = self._fleet.life(name, place)
        if name == WORKER and life.partitions:
            self._note("halted worker", time.monotonic(), life.partitions)
        self._fleet.send(life, signal.SIGSTOP)

    def resume(self, place: int = 0, name: str = WORKER) -> None:
        """Let one go on as if nothing had been."""
        self._fleet.send(self._fleet.life(name, place), signal.SIGCONT)

    def wake_into_death(self) -> None:
        """Wake a zombie while its heirs die between commit and publication: the race of Rule R."""
        self._fleet.wait_until_ready(WORKER)
        zombie = self._any(WORKER)
        held = zombie.partitions
        self._note("halted worker", time.monotonic(), held)
        self._fleet.send(zombie, signal.SIGSTOP)
        heirs = [life for life in self._fleet.alive(WORKER) if life is not zombie]

        def are_inherited() -> bool:
            return held <= set().union(*(life.partitions for life in heirs if life.is_alive))

        self._fleet.wait(are_inherited, "the zombie's partitions have moved", MOVED_SECONDS_MAX)
        for life in heirs:
            self._fleet.order(life, Orders(fail_at="after_cas"))
        self._fleet.wait(
            lambda: not all(life.is_alive for life in heirs), "an heir dies", ARMED_SECONDS_MAX
        )
        self._fleet.send(zombie, signal.SIGCONT)

    def terminate(self, place: int, name: str = WORKER) -> None:
        """Ask one to end under load; another follows."""
        life = self._fleet.life(name, place)
        # Before it hears signals it ends by them, and has begun nothing.
        allowed = (0,) if life.is_ready else (0, -signal.SIGTERM)
        seconds = self._fleet.replace_after_end(life)
        self.noted.stops.append(round(seconds, 2))
        self._expect(life.exit_code in allowed, f"{name} ended with {life.exit_code} when asked to")
        self._expect(seconds <= STOP_SECONDS_MAX, f"{name} took {seconds:.1f} s to end when asked")

    def scale(self, workers: int) -> None:
        """Have so many workers from now on."""
        self._fleet.keep(WORKER, workers)

    def second_trainer(self) -> None:
        """Start another trainer: it waits for its turn, or is refused and ends."""
        self._alone.append(self._fleet.alone(TRAINER))

    def set_clock(self, place: int, seconds: float) -> None:
        """Let the wall clock of a worker jump; 0 puts it right."""
        self._fleet.order(self._fleet.life(WORKER, place), Orders(clock_seconds=seconds))

    # Servers.

    def end_server(self, name: str, kill: bool = True) -> None:
        """End a server and start it again at once."""
        when = time.monotonic()
        self._cluster.end(name, signal.SIGKILL if kill else signal.SIGTERM)
        self._cluster.start_servers()
        # Without a broker a worker still commits the batch that it has.
        self._note(name, when)

    def halt_server(self, name: str) -> None:
        """Halt a server as SIGSTOP does."""
        self._cluster.send(name, signal.SIGSTOP)

    def resume_server(self, name: str) -> None:
        """Let a server go on; what it held up is counted from here."""
        self._cluster.send(name, signal.SIGCONT)
        self._note(f"{name} resumed", time.monotonic())

    def fill_disk(self, name: str) -> None:
        """Take all the space that a server's disk has left, and wait until it cannot go on."""
        path = self._cluster.folder(name) / BALLAST
        with suppress(OSError), path.open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 16))
        before = self._session.watch.committed
        time.sleep(5.0)
        stalled = self._session.watch.committed
        time.sleep(5.0)
        moved = self._session.watch.committed - stalled
        self._expect(moved == 0 or before == 0, f"{moved} records were committed on a full disk")
        self._expect(
            not self._cluster.runs(name) or self._fleet.surprises,
            f"{name} and the workers went on silently on a full disk",
        )

    def free_disk(self, name: str) -> None:
        """Give the space back and start what has ended."""
        (self._cluster.folder(name) / BALLAST).unlink()
        if self._cluster.runs(name):
            self._cluster.end(name, signal.SIGKILL)
        when = time.monotonic()
        self._cluster.start_servers()
        self._note(name, when)

    # The store's past, and the logs' end.

    def copy_store(self) -> None:
        """Copy Redis' files, as a backup would."""
        self._copied = {path: path.read_bytes() for path in self._store_files()}

    def restore_store(self) -> None:
        """Kill Redis and put the copy in its place."""
        self._lose_store(lambda: [path.write_bytes(data) for path, data in self._copied.items()])

    def cut_store(self) -> None:
        """Kill Redis and cut the last bytes off its file."""

        def cut() -> None:
            path = max(self._store_files(), key=lambda path: path.stat().st_mtime)
            with path.open("r+b") as file:
                file.truncate(max(0, path.stat().st_size - CUT_BYTES))

        self._lose_store(cut)

    def _store_files(self) -> list[Path]:
        folder = self._cluster.folder(REDIS)
        return [path for path in folder.rglob("*") if "appendonly" in path.name and path.is_file()]

    def _lose_store(self, lose: Callable[[], object]) -> None:
        """Stop everything that writes, lose a part of the store, and go on; note what was lost."""
        for life in [*self._fleet.alive(WORKER), *self._fleet.alive(TRAINER)]:
            self._fleet.send(life, signal.SIGSTOP)
        before, when = self._positions(), time.monotonic()
        self._cluster.end(REDIS)
        lose()
        self._cluster.start_servers()
        after = self._positions()
        for partition in self._all:
            old, new = before[TRANSACTIONS][partition], after[TRANSACTIONS][partition]
            self.noted.window[partition] = new[0], old[0]
            old, new = before[FEEDBACK][partition], after[FEEDBACK][partition]
            self.noted.examples_window[partition] = new[1], old[1]
        for life in [*self._fleet.alive(WORKER), *self._fleet.alive(TRAINER)]:
            self._fleet.kill(life)
        # Everybody begins again, so it is no restart of the store alone.
        self._note(PUT_BACK, when)

    def _positions(self) -> dict[str, list[tuple[int, int]]]:
        """Give the first two numbers of each position."""
        found = {}
        for topic in (TRANSACTIONS, FEEDBACK):
            keys = [f"pos:{topic}:{partition}" for partition in sorted(self._all)]
            stored = LiveStore(self._session.redis).strings(keys)
            parts = [((text or b"0:0") + b":0").split(b":") for text in stored]
            found[topic] = [(int(part[0]), int(part[1])) for part in parts]
        return found

    def recreate_topic(self) -> None:
        """Make `transactions` anew: a worker must not begin at its start as if nothing was."""
        # A topic that was filled again beyond the store's position cannot be told from the old one.
        self._hold_traffic()
        self._fleet.keep(WORKER, 0)
        with administration(self._session.servers) as admin:
            admin.delete_topics([TRANSACTIONS])
            self._fleet.wait(
                lambda: TRANSACTIONS not in admin.list_topics(), "the topic is gone", 30.0
            )
        self._fleet.wait(self._created, "the topic is made anew", 30.0)
        self._refuses_to_begin("the log ends before the store's position")

    def _hold_traffic(self) -> None:
        if self._feeder is not None:
            self._feeder.stop()

    def _created(self) -> bool:
        try:
            create_topics(self._session.servers, self._session.settings)
        except Exception:
            return False
        return True

    def delete_unread(self) -> None:
        """Delete records that nobody has read: a worker must not pass over them."""
        self._fleet.keep(WORKER, 0)
        time.sleep(2.0)
        self._hold_traffic()
        with administration(self._session.servers) as admin:
            places = {TopicPartition(TRANSACTIONS, number): -1 for number in self._all}
            admin.delete_records(places)
        self._refuses_to_begin("the log begins behind the store's position")

    def _refuses_to_begin(self, why: str) -> None:
        life = self._fleet.alone(WORKER)
        self._alone.append(life)
        with suppress(TimeoutError):
            self._fleet.wait(lambda: not life.is_alive, "a worker ends", 60.0)
        self._expect(not life.is_alive, f"a worker went on although {why}")
        code = life.started.process.poll()
        self._expect(code == 1, f"a worker ended with {code} where {why}")
        self._expect("but the store stands at" in life.output, f"no alarm says that {why}")

    def reset_group(self) -> None:
        """Set the group's offsets back to 0, which the store knows better."""
        self._fleet.keep(WORKER, 0)
        with administration(self._session.servers) as admin:
            places = {
                TopicPartition(topic, number): OffsetAndMetadata(0, "", None)
                for topic in (TRANSACTIONS, FEEDBACK)
                for number in self._all
            }
            group = self._session.settings.consumer_group

            def is_reset() -> bool:
                # Members that left a moment ago may still be counted.
                answers = admin.alter_group_offsets(group, places).values()
                return all(answer is NoError for answer in answers)

            self._fleet.wait(is_reset, "the group's offsets are set back", 60.0)
        self._fleet.keep(WORKER, 3)

    def bad_snapshots(self) -> None:
        """Publish damaged versions as champion, one after the other: all are refused."""
        for name, key in publish_bad_snapshots(self._session.settings):
            told = f"snapshot refused: key={key!r}"
            with suppress(TimeoutError):
                self._fleet.wait(
                    lambda told=told: all(  # type: ignore[misc]
                        told in life.output for life in self._fleet.alive(WORKER)
                    ),
                    f"workers refuse {name}",
                    30.0,
                )
            said = [told in life.output for life in self._fleet.alive(WORKER)]
            self._expect(all(said), f"{said.count(False)} workers did not refuse {name}")


def mount_small(folder: Path, megabytes: int) -> bool:
    """Put a small file system on a folder; `False` where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    return _succeeds(command)


def unmount(folder: Path) -> None:
    """Take a file system away again."""
    _succeeds(["umount", str(folder)])


def _succeeds(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode == 0


__all__ = ["KAFKA", "REDIS", "Broken", "Faults", "Noted", "mount_small", "unmount"]

"""The cases: what is broken when. A case is data; `faults.py` has the verbs.

A script is made of the case's own seed, so that a case runs the same alone as among others. Times
are seconds from the beginning of the traffic; an action comes when the one before it is done, and
not before its time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.chaos.cluster import KAFKA, REDIS
from benchmarks.chaos.faults import TRAINER, WORKER
from benchmarks.chaos.launcher import FAIL_POINTS

SESSION_SECONDS = 4.0
# A killed worker is measured from its kill until its partitions move, with nothing else amiss.
APART_SECONDS = (9.0, 11.0)
STORM_SECONDS = 8.0
KILLS, KILLS_MEASURED = 20, 12


@dataclass(frozen=True, slots=True)
class Act:
    """Something that happens at a time."""

    at: float
    verb: str
    arguments: dict[str, Any] = field(default_factory=dict)


Script = Callable[[Random], list[Act]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case.

    Parameters
    ----------
    faults
        Which of the sixteen faults of the suite it is of.
    seconds
        How long traffic goes on at least.
    tail
        How long it goes on after the last action.
    own
        Whether it needs servers of its own, since it takes something away from them.
    small_disk
        A server whose data lie on a small file system.
    closes
        Whether the books must close afterwards; a topic that was made anew has none.
    stall_max
        Seconds that all partitions together may stand still, where a case says so.
    """

    name: str
    faults: str
    title: str
    script: Script
    rate: float = 1_000.0
    seconds: float = 10.0
    tail: float = 4.0
    traffic: dict[str, float] = field(default_factory=dict)
    own: bool = False
    small_disk: str = ""
    closes: bool = True
    stall_max: float | None = None


def _kills(chance: Random) -> list[Act]:
    """Kills that are measured, then some in quick succession."""
    at, acts = 3.0, []
    for number in range(KILLS):
        measured = number < KILLS_MEASURED
        acts.append(Act(at, "kill", {"measured": measured}))
        at += chance.uniform(*APART_SECONDS) if measured else chance.uniform(0.5, 4.0)
    return acts


def _fail_points(chance: Random) -> list[Act]:
    names = [(WORKER, point) for point in FAIL_POINTS * 2]
    names += [(TRAINER, point) for point in FAIL_POINTS]
    chance.shuffle(names)
    return [Act(2.0, "fail", {"name": name, "point": point}) for name, point in names]


def _rule_r(_: Random) -> list[Act]:
    return [Act(2.0 + 8.0 * number, "wake_into_death") for number in range(3)]


def _sigterm(chance: Random) -> list[Act]:
    return [
        Act(3.0 + 6.0 * number + chance.random(), "terminate", {"place": number % 3})
        for number in range(3)
    ] + [Act(22.0, "terminate", {"place": 0, "name": TRAINER})]


def _zombie(chance: Random) -> list[Act]:
    place = chance.randrange(3)
    return [
        Act(3.0, "halt", {"place": place}),
        Act(3.0 + 2 * SESSION_SECONDS, "resume", {"place": place}),
        Act(16.0, "halt", {"place": (place + 1) % 3}),
        Act(16.0 + 2 * SESSION_SECONDS, "resume", {"place": (place + 1) % 3}),
    ]


def _server(name: str, *, kill: bool) -> Script:
    def script(chance: Random) -> list[Act]:
        return [
            Act(3.0 + 8.0 * number + chance.random(), "end_server", {"name": name, "kill": kill})
            for number in range(2)
        ]

    return script


def _halted(seconds: float, *names: str) -> Script:
    def script(_: Random) -> list[Act]:
        halts = [Act(3.0, "halt_server", {"name": name}) for name in names]
        return halts + [Act(3.0 + seconds, "resume_server", {"name": name}) for name in names]

    return script


def _storm(_: Random) -> list[Act]:
    sizes = [1, 3, 2, 3] * 3
    acts = []
    for number, workers in enumerate(sizes[:10], start=1):
        acts.append(Act(STORM_SECONDS * number, "scale", {"workers": workers}))
        acts.append(Act(STORM_SECONDS * (number + 0.5), "kill", {"name": TRAINER}))
    return acts


def _clocks(_: Random) -> list[Act]:
    hour = 3600.0
    jumps = [(0, hour), (1, -hour), (0, -hour), (2, hour), (0, 0.0), (1, 0.0), (2, 0.0)]
    return [
        Act(2.0 * (1 + number), "set_clock", {"place": place, "seconds": seconds})
        for number, (place, seconds) in enumerate(jumps)
    ]


def _trainer_kills(_: Random) -> list[Act]:
    """The first of fifty over the suite: the others lie in other cases."""
    return [Act(1.0, "kill_when_ready", {"seconds": 1.5})] * 30


def _flood(_: Random) -> list[Act]:
    return [Act(3.0 + 5.0 * number, "kill", {"name": TRAINER}) for number in range(4)]


def _two_trainers(_: Random) -> list[Act]:
    return [
        Act(2.0, "second_trainer"),
        Act(12.0, "kill", {"name": TRAINER, "place": 0}),
        Act(14.0, "second_trainer"),
        Act(22.0, "kill", {"name": TRAINER, "place": 0}),
    ]


def _older_store(_: Random) -> list[Act]:
    return [Act(6.0, "copy_store"), Act(12.0, "restore_store")]


def _full_disk(name: str) -> Script:
    def script(_: Random) -> list[Act]:
        return [Act(6.0, "fill_disk", {"name": name}), Act(18.0, "free_disk", {"name": name})]

    return script


def _one(verb: str, at: float = 4.0) -> Script:
    return lambda _: [Act(at, verb)]


CASES: tuple[Case, ...] = (
    Case(name="worker-kill", faults="1", title="kill -9 of workers, 20 times", script=_kills),
    Case(name="fail-points", faults="1, 13", title="ends around a commit", script=_fail_points),
    Case(name="rule-r", faults="1, 3", title="zombie wakes as its heir dies", script=_rule_r),
    Case(name="sigterm", faults="2", title="SIGTERM under load", script=_sigterm),
    Case(name="zombie", faults="3", title="SIGSTOP for two sessions", script=_zombie),
    Case(
        name="broker-restart", faults="4", title="broker asked to end",
        script=_server(KAFKA, kill=False), tail=10.0,
    ),
    Case(
        name="broker-kill", faults="4", title="kill -9 of the broker",
        script=_server(KAFKA, kill=True), tail=10.0,
    ),
    Case(
        name="broker-stop", faults="5", title="SIGSTOP of the broker, 30 s",
        script=_halted(30.0, KAFKA), tail=10.0,
    ),
    Case(
        name="redis-kill", faults="6", title="kill -9 of Redis",
        script=_server(REDIS, kill=True), tail=8.0,
    ),
    Case(
        name="redis-stop", faults="6", title="SIGSTOP of Redis, 20 s",
        script=_halted(20.0, REDIS), tail=10.0,
    ),
    Case(
        name="network", faults="15", title="neither server answers for 10 s",
        script=_halted(10.0, KAFKA, REDIS), tail=10.0,
    ),
    Case(
        name="duplicates", faults="9", title="group set back, 5 % sent twice",
        script=_one("reset_group"), tail=8.0, traffic={"duplicate_share": 0.05},
    ),
    Case(
        name="storm", faults="10", title="1, 3, 2, 3 workers every 8 s",
        script=_storm, tail=6.0, stall_max=30.0,
    ),
    Case(name="clock", faults="11", title="wall clock an hour off", script=_clocks),
    Case(
        name="poison", faults="12", title="10 % bad input at twice the rate",
        script=_flood, rate=2_000.0, seconds=12.0, traffic={"rubbish_share": 0.10},
    ),
    Case(
        name="trainer-kill", faults="13", title="kill -9 of the trainer, 30 times",
        script=_trainer_kills, rate=500.0,
    ),
    Case(name="two-trainers", faults="13", title="two trainers at once", script=_two_trainers),
    Case(
        name="bad-snapshot", faults="14", title="damaged models as champion",
        script=_one("bad_snapshots", at=6.0),
    ),
    Case(
        name="redis-older", faults="7", title="Redis restored from a copy, 6 s old",
        script=_older_store, own=True, tail=10.0,
    ),
    Case(
        name="redis-cut", faults="7", title="last 1000 bytes of Redis' file lost",
        script=_one("cut_store", at=8.0), own=True, tail=10.0,
    ),
    Case(
        name="topic-anew", faults="7", title="transactions made anew: must stop",
        script=_one("recreate_topic", at=6.0), own=True, closes=False,
    ),
    Case(
        name="unread-gone", faults="7", title="unread records deleted: must stop",
        script=_one("delete_unread", at=6.0), own=True, closes=False,
    ),
    Case(
        name="disk-redis", faults="8", title="disk full for Redis",
        script=_full_disk(REDIS), own=True, small_disk=REDIS, tail=10.0,
    ),
    Case(
        name="disk-kafka", faults="8", title="disk full for Kafka",
        script=_full_disk(KAFKA), own=True, small_disk=KAFKA, tail=10.0,
    ),
)  # fmt: skip


def round_of_kills(kills: int) -> Case:
    """Give a case of many kills in quick succession: of workers, trainers, now and then servers."""

    choice: list[tuple[int, str, dict[str, Any]]] = [
        (55, "kill", {"measured": False}),
        (20, "arm", {}),
        (18, "kill", {"name": TRAINER}),
        (4, "end_server", {"name": REDIS}),
        (3, "end_server", {"name": KAFKA}),
    ]
    weights = [weight for weight, _, _ in choice]

    def script(chance: Random) -> list[Act]:
        at, acts = 2.0, []
        for _, verb, arguments in chance.choices(choice, weights, k=kills):
            acts.append(Act(at, verb, arguments))
            at += chance.uniform(1.0, 4.0)
        return acts

    return Case(
        name="kills", faults="1, 4, 6, 13", title=f"{kills} kills in quick succession",
        script=script, rate=2_000.0, tail=6.0,
    )  # fmt: skip

"""The short form of the chaos suite, and proof that its checker sees what it is there to see.

One story of some faults is told on real servers; its books must close. Then what it left is taken
down and spoiled, one way at a time: each must be found by the check that is there for it.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
import pytest
from kafka.consumer.fetcher import ConsumerRecord

from benchmarks.chaos.books import READ_ORDER, Books
from benchmarks.chaos.checker import Finding, Harm, judge
from benchmarks.chaos.faults import TRAINER, WORKER, Faults
from benchmarks.chaos.held import CopiedStore
from benchmarks.chaos.session import Session, chaos_settings
from benchmarks.chaos.traffic import TrafficOptions
from consumers.log_reader import LogReader
from models import make_model
from models.snapshot import encode
from pipeline.commit import Outbox, OutboxRecord
from pipeline.sealing import read_sealed, seal
from pipeline.settings import Settings
from pipeline.signing import ModelSigner, ModelVerifier
from pipeline.stored_rows import sealed
from pipeline.topics import DEAD_LETTERS, DECISIONS, FEEDBACK, MODELS, TRAINING, TRANSACTIONS
from stack.servers import Endpoints
from tests.resetting import reset
from tests.strategies import CARD

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SEED = 11
SESSION_SECONDS = 1.5
RATE = 300.0


class Record(NamedTuple):
    """A record as it was read, to be spoiled."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp: int

    @classmethod
    def of(cls, record: ConsumerRecord) -> "Record":
        return cls(*(getattr(record, name) for name in cls._fields))


Logs = dict[str, list[Record]]


@dataclass
class Evidence:
    """What a run left: all logs, each partition in its order, and the store."""

    settings: Settings
    logs: Logs
    store: CopiedStore

    def copy(self) -> "Evidence":
        logs = {topic: list(records) for topic, records in self.logs.items()}
        hashes = {key: dict(fields) for key, fields in self.store.hashes.items()}
        return Evidence(self.settings, logs, CopiedStore(dict(self.store.values), hashes))

    def judged(self) -> list[Finding]:
        books = Books(CARD, self.settings)
        for topic in READ_ORDER:
            for partition in range(self.settings.partitions):
                records = [item for item in self.logs[topic] if item.partition == partition]
                if records:
                    books.take(topic, records)
        return judge(books, self.store, CARD, self.settings.partitions)


@dataclass
class Told:
    """The story's end."""

    findings: list[Finding]
    unmet: list[str]
    kills: int
    surprises: list[str]
    repeated: int
    evidence: Evidence


def tell(session: Session) -> list[str]:
    """Kill, fail between commit and publication, wake a zombie; under traffic all the while."""
    faults = Faults(session, random.Random(SEED))
    fleet = session.fleet
    with session.feeding(RATE):
        fleet.wait(lambda: session.watch.committed > RATE, "there is traffic")
        faults.kill(WORKER)
        faults.fail("after_cas")
        faults.fail("mid_publish", TRAINER)
        faults.wake_into_death()
        fleet.wait_until_ready(WORKER)
    faults.close()
    return faults.noted.unmet


@pytest.fixture(scope="module")
def told(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("chaos")
    settings = replace(
        chaos_settings(folder, session_seconds=SESSION_SECONDS),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        # Each version costs every judgement of what was taken down.
        snapshot_interval_seconds=2.0,
    )
    reset(stack, settings)
    traffic = TrafficOptions(seed=SEED, customers=200, terminals=100)
    with Session(settings, print, seed=SEED, traffic=traffic, endpoints=stack) as session:
        session.fleet.keep(WORKER, 2)
        session.fleet.keep(TRAINER, 1)
        session.fleet.wait_until_ready(WORKER)
        session.fleet.wait_until_ready(TRAINER)
        unmet = tell(session)
        findings = session.close_books()
        kills = session.cluster.all_kills
        surprises = session.fleet.surprises
        repeated = sum(session.books.decisions.repeated.values())
        evidence = taken_down(session)
    yield Told(findings, unmet, kills, surprises, repeated, evidence)


def taken_down(session: Session) -> Evidence:
    logs: Logs = {}
    for topic in READ_ORDER:
        with LogReader(session.servers, topic) as reader:
            logs[topic] = [Record.of(record) for chunk in reader.chunks() for record in chunk]
    return Evidence(session.settings, logs, CopiedStore.of(session.redis))


def test_the_books_close_whatever_was_killed(told: Told) -> None:
    assert told.findings == []
    assert told.unmet == []
    # One by SIGKILL, two at fail-points, at least one heir of the zombie.
    assert told.kills + len(told.surprises) >= 4, told.surprises


def test_what_was_committed_and_not_published_is_published_by_the_next(told: Told) -> None:
    decided = told.evidence.logs[DECISIONS]
    assert told.repeated == len(decided) - len({record.key for record in decided})


def test_the_books_close_on_what_was_taken_down(told: Told) -> None:
    assert told.evidence.judged() == []


def drop(topic: str, place: int = 100) -> Callable[[Evidence], None]:
    """Take a record out of a log, with what came again of it."""

    def spoil(evidence: Evidence) -> None:
        log = evidence.logs[topic]
        gone = log[min(place, len(log) - 1)]
        evidence.logs[topic] = [
            item for item in log if (item.key, item.value) != (gone.key, gone.value)
        ]

    return spoil


def drop_letter(evidence: Evidence) -> None:
    """Take the first dead letter of a transaction out of its log, with what came again of it."""
    log = evidence.logs[DEAD_LETTERS]
    gone = next(item for item in log if dict(item.headers)["fraud.errors.topic"] == b"transactions")
    evidence.logs[DEAD_LETTERS] = [
        item for item in log if (item.key, item.value) != (gone.key, gone.value)
    ]


def repeat(**changes: Any) -> Callable[[Evidence], None]:
    """Publish a decision again, in this form."""

    def spoil(evidence: Evidence) -> None:
        log = evidence.logs[DECISIONS]
        at = [place for place, record in enumerate(log) if record.partition == 0][-1]
        log.insert(at + 1, log[at]._replace(offset=log[at].offset + 1, **changes))

    return spoil


def other_amount(evidence: Evidence) -> None:
    log = evidence.logs[DECISIONS]
    value = msgspec.json.decode(log[50].value or b"")
    value["amount"] += 1
    log[50] = log[50]._replace(value=msgspec.json.encode(value))


def swap(evidence: Evidence) -> None:
    log = evidence.logs[DECISIONS]
    log[10], log[11] = log[11], log[10]


def one_byte(prefix: str) -> Callable[[Evidence], None]:
    def spoil(evidence: Evidence) -> None:
        values = evidence.store.values
        key = next(name for name in sorted(values) if name.startswith(prefix))
        place = len(values[key]) // 2
        changed = bytes([values[key][place] ^ 1])
        values[key] = values[key][:place] + changed + values[key][place + 1 :]

    return spoil


def forget_bucket(evidence: Evidence) -> None:
    del evidence.store.values[
        next(name for name in sorted(evidence.store.values) if name.startswith("r:terminal:"))
    ]


def other_model(evidence: Evidence) -> None:
    log = evidence.logs[MODELS]
    place = [n for n, item in enumerate(log) if item.value and b"additive@" in (item.key or b"")][
        -1
    ]
    found = read_sealed(log[place].value or b"", ModelVerifier(evidence.settings))
    untaught = encode(
        make_model("additive", found.model.feature_names),
        version=found.version,
        training_offset=found.training_offset,
        schema_hash=found.schema_hash,
    )
    log[place] = log[place]._replace(value=seal(untaught, ModelSigner(evidence.settings)))


def step_back(evidence: Evidence) -> None:
    position = evidence.store.values[f"pos:{TRANSACTIONS}:1"].split(b":")
    position[0] = str(int(position[0]) - 1).encode()
    evidence.store.values[f"pos:{TRANSACTIONS}:1"] = b":".join(position)


def keep_unpublished(evidence: Evidence) -> None:
    outbox = Outbox("somebody:0", [OutboxRecord(DECISIONS, 2, b"t-unpublished", b"{}")])
    key = f"out:{TRANSACTIONS}:2"
    evidence.store.values[key] = sealed(key, msgspec.msgpack.encode(outbox))


def miscount(evidence: Evidence) -> None:
    ledger = evidence.store.hashes["ledger:0"]
    ledger[b"learned"] = str(int(ledger[b"learned"]) + 1).encode()


SPOILED: dict[str, tuple[Callable[[Evidence], None], str, Harm]] = {
    "a decision is missing": (drop(DECISIONS), "a", "lost"),
    "a dead letter is missing": (drop_letter, "a", "lost"),
    "an input was never sent": (drop(TRANSACTIONS), "a", "double"),
    "a decision of nothing": (repeat(key=b"t-nothing"), "a", "double"),
    "two decisions change places": (swap, "a", "state"),
    "a decision in another form": (repeat(value=b"{}"), "a", "double"),
    "an amount is wrong": (other_amount, "c", "double"),
    "a terminal is forgotten": (forget_bucket, "c", "lost"),
    "a card's row differs": (one_byte("c:"), "d", "state"),
    "a terminal's row differs": (one_byte("r:"), "d", "state"),
    "a row of card testing differs": (one_byte("p:"), "d", "state"),
    "a learned row differs": (one_byte("l:"), "e", "state"),
    "a model was taught otherwise": (other_model, "e", "state"),
    "a position is behind": (step_back, "f", "state"),
    "an outbox was not published": (keep_unpublished, "f", "lost"),
    "a label was counted twice": (miscount, "g", "double"),
    "a label was never sent": (drop(FEEDBACK), "g", "double"),
    "an example is missing": (drop(TRAINING), "g", "lost"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_the_checker_finds(told: Told, kind: str) -> None:
    spoil, check, harm = SPOILED[kind]
    evidence = told.evidence.copy()
    spoil(evidence)

    found = {(finding.check, finding.harm) for finding in evidence.judged()}

    assert (check, harm) in found


def test_the_checker_tells_a_repetition_from_a_contradiction(told: Told) -> None:
    again, other = told.evidence.copy(), told.evidence.copy()
    repeat()(again)
    log = other.logs[DECISIONS]
    value = msgspec.json.decode(log[0].value or b"") | {"score": 0.5}
    log.append(log[0]._replace(value=msgspec.json.encode(value)))

    assert again.judged() == []
    assert {(item.check, item.harm) for item in other.judged()} == {("b", "conflicting")}

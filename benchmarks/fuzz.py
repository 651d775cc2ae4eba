"""A million messages that are nearly right: each is accepted or rejected, and nothing else happens.

`python -m benchmarks.fuzz` passes mutated transactions, labels and outcomes through decoding and
admission, and then a share of them through a real worker on real Kafka and Redis. Accepted and
rejected must add up to what was made, no message may raise, and memory must not grow with their
number. Exit code 1 where it is not so; a message that raises is printed with its seed and number.
"""

import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import psutil
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError
from redis import Redis

from benchmarks.accounting import drain
from benchmarks.machine import machine
from benchmarks.mutations import TOPICS, Message, Mutator, RawName
from benchmarks.progress import Report, progress
from consumers.log_reader import read_topic
from pipeline.admission import Admission
from pipeline.durations import DAY_MS
from pipeline.errors import REASONS
from pipeline.events import LabelDecoder, OutcomeDecoder, Problem
from pipeline.partitioner import partition_of
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS, FEEDBACK, OUTCOMES, TRANSACTIONS
from pipeline.transactions import TransactionDecoder
from pipeline.verdicts import LABEL_PATHS
from stack.processes import Started
from stack.servers import Endpoints, Stack
from stack.services import services

BATCH = 500
SEND_MS_MAX = 120_000
# Memory may grow by no more than this over a million messages, after the first quarter.
SLOPE_MB_MAX = 20.0
MEGABYTE = 1024 * 1024
FAILURES_SHOWN_MAX = 10


def _say(line: str) -> None:
    click.echo(line, err=True)


@dataclass
class Memory:
    """Resident memory over the course of a step: messages done, and megabytes then."""

    process: psutil.Process
    seen: list[tuple[int, float]] = field(default_factory=list)

    def look(self, done: int) -> None:
        """Take note of the memory in use."""
        self.seen.append((done, self.process.memory_info().rss / MEGABYTE))

    def result(self) -> dict[str, float]:
        """Give the peak, and the slope for a million messages after the first quarter."""
        done, megabytes = np.array(self.seen, dtype=np.float64).T
        late = done >= done[-1] / 4
        slope = np.polyfit(done[late], megabytes[late], 1)[0] * 1e6 if late.sum() > 1 else 0.0
        return {
            "peak_mb": round(float(megabytes.max()), 1),
            "slope_mb_a_million": round(float(slope), 2),
        }


@dataclass
class Passed:
    """What became of messages that were decoded and admitted here."""

    made: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def adds_up(self) -> bool:
        """Whether each message was accepted or rejected."""
        return self.accepted + self.rejected.total() == self.made


class Decoders:
    """Decoding and admission of every input, as a worker of one partition has them."""

    def __init__(self) -> None:
        schema = load_schema("card")
        self._transactions = TransactionDecoder(schema)
        self._others: dict[str, LabelDecoder | OutcomeDecoder] = {
            FEEDBACK: LabelDecoder(schema),
            OUTCOMES: OutcomeDecoder(schema),
        }
        self._admission = Admission(schema, Settings(partitions=1), 0)

    def take(self, messages: Sequence[Message], passed: Passed) -> None:
        """Pass a batch."""
        transactions = [item for item in messages if item.topic == TRANSACTIONS]
        arrived = [None if n % 7 else 1_609_718_400_000 + DAY_MS for n in range(len(transactions))]
        batch, rows, rejected = self._transactions.decode([item.value for item in transactions])
        kept, _, refused = self._admission.admit(
            batch, rows, arrived, [item.key for item in transactions]
        )
        passed.accepted += len(kept)
        passed.rejected.update(item.problem.reason for item in (*rejected, *refused))
        for message in messages:
            if message.topic != TRANSACTIONS:
                self._take_one(message, passed)

    def _take_one(self, message: Message, passed: Passed) -> None:
        found = self._others[message.topic].decode_one(message.value)
        problem = found if isinstance(found, Problem) else None
        if not isinstance(found, Problem):
            problem = self._admission.refused(found.key, message.key)
        if problem is None:
            passed.accepted += 1
        else:
            passed.rejected[problem.reason] += 1


def decode_all(messages: Iterable[Message], seed: int, report: Report) -> tuple[Passed, Memory]:
    """Pass messages through decoding and admission, in batches."""
    decoders, passed, memory = Decoders(), Passed(), Memory(psutil.Process())
    for chunk in _chunks(messages):
        passed.mutations.update(name for item in chunk for name in item.mutation.split())
        try:
            decoders.take(chunk, passed)
        except Exception as error:  # whatever it is, it is what is looked for
            if len(passed.failures) < FAILURES_SHOWN_MAX:
                numbers = f"{passed.made} to {passed.made + len(chunk)}"
                passed.failures.append(f"seed {seed}, messages {numbers}: {error!r}")
        passed.made += len(chunk)
        if passed.made % (20 * BATCH) == 0:
            memory.look(passed.made)
        report(passed.made)
    memory.look(passed.made)
    return passed, memory


def _chunks(messages: Iterable[Message]) -> Iterator[list[Message]]:
    left = iter(messages)
    while chunk := list(itertools.islice(left, BATCH)):
        yield chunk


def through_servers(settings: Settings, seed: int, count: int) -> dict[str, Any]:
    """Start servers and a worker, and send messages through."""
    with (
        Stack(settings, attached=True, say=_say) as endpoints,
        services(["worker"], settings, endpoints, _say) as [worker],
    ):
        return through_worker(settings, endpoints, worker, seed, count)


def through_worker(
    settings: Settings, endpoints: Endpoints, worker: Started, seed: int, count: int
) -> dict[str, Any]:
    """Send messages through a real worker, and account for every one."""
    memory = Memory(psutil.Process(worker.process.pid))
    sent, failed = Counter[str](), Counter[tuple[str, type]]()
    with progress("send", "messages", count) as report:
        _send(settings, endpoints, Mutator(seed).messages(count), sent, failed, report)
    with progress("drain", "messages", count) as report:

        def seen(done: int, total: int | None = None) -> None:
            memory.look(done)
            report(done, total)

        # There is no trainer.
        drain(settings, endpoints, seen, topics=TOPICS)
    refused = Counter(
        {topic: n for (topic, kind), n in failed.items() if kind is MessageSizeTooLargeError}
    )
    # Without an answer a record may be published or not.
    unsure = failed.total() - refused.total()
    found = _account(settings, endpoints, worker, sent, refused, unsure)
    return found | {"worker_memory": memory.result()}


def _send(
    settings: Settings,
    endpoints: Endpoints,
    messages: Iterable[Message],
    sent: Counter[str],
    failed: Counter[tuple[str, type]],
    report: Report,
) -> None:
    """Send messages; of those beyond `max.message.bytes` the broker takes none."""
    producer = KafkaProducer(
        bootstrap_servers=endpoints.kafka_servers,
        acks="all",
        linger_ms=20,
        # A record that the broker refuses would take the others of an idempotent producer with it.
        enable_idempotence=False,
        retries=0,
        request_timeout_ms=SEND_MS_MAX,
        delivery_timeout_ms=2 * SEND_MS_MAX,
    )
    with closing(producer):
        for number, message in enumerate(messages):
            partition = partition_of(message.card.encode(), settings.partitions)
            if message.key is None and number % 2:
                partition = (partition + 1) % settings.partitions
            # This client sends no record without both; the envelope's own tests do.
            key = b"" if message.key is None and message.value is None else message.key
            headers = [(RawName.of(name), content) for name, content in message.headers]
            producer.send(
                message.topic, message.value, key, headers=headers, partition=partition
            ).add_errback(lambda error, topic=message.topic: failed.update([(topic, type(error))]))
            sent[message.topic] += 1
            report(number + 1)
        producer.flush(timeout=120)


def _account(
    settings: Settings,
    endpoints: Endpoints,
    worker: Started,
    sent: Counter[str],
    refused: Counter[str],
    unsure: int,
) -> dict[str, Any]:
    """Count what became of what was sent, from the topics and from the books in Redis."""
    servers = endpoints.kafka_servers
    decided = {tuple(json.loads(r.value)["source"][1:]) for r in read_topic(servers, DECISIONS)}
    letters: dict[str, set[tuple[int, int]]] = {topic: set() for topic in sent}
    reasons: Counter[str] = Counter()
    for record in read_topic(servers, DEAD_LETTERS):
        said = dict(record.headers)
        place = int(said["fraud.errors.partition"]), int(said["fraud.errors.offset"])
        letters[said["fraud.errors.topic"].decode()].add(place)
        reasons[said["fraud.errors.reason"].decode()] += 1
    redis: Any = Redis.from_url(endpoints.redis_url)
    books: Counter[str] = Counter()
    waiting = 0
    for partition in range(settings.partitions):
        books.update({k.decode(): int(v) for k, v in redis.hgetall(f"ledger:{partition}").items()})
        waiting += redis.hlen(f"pend:{partition}")
    labels = sum(books[path] for path in LABEL_PATHS) - books["matured"] + books["rejected"]
    outcomes = sum(count for name, count in books.items() if name.startswith("outcome_"))
    published = {topic: sum(1 for _ in read_topic(servers, topic)) for topic in sent}
    duplicates = published[TRANSACTIONS] - len(decided | letters[TRANSACTIONS])
    return {
        "sent": dict(sent),
        "refused_by_the_broker": dict(refused),
        "sent_without_an_answer": unsure,
        "published": published,
        "decided": len(decided),
        "duplicates": duplicates,
        "dead_letters": {topic: len(places) for topic, places in letters.items()},
        "reasons": dict(reasons),
        "labels_in_the_books": labels,
        "labels_that_wait": waiting,
        "outcomes_in_the_books": outcomes,
        "worker_lives": worker.process.poll() is None,
        "checks": {
            "everything was published or refused": 0
            <= sent.total() - refused.total() - sum(published.values())
            <= unsure,
            "the worker lives": worker.process.poll() is None,
            "no transaction is both decided and a dead letter": not decided & letters[TRANSACTIONS],
            "transactions add up but for duplicates": 0 <= duplicates <= sent[TRANSACTIONS] // 50,
            "labels add up": labels + waiting == published[FEEDBACK],
            "outcomes add up": outcomes + len(letters[OUTCOMES]) == published[OUTCOMES],
            "every reason is of the list": set(reasons) <= set(REASONS),
        },
    }


def run(seed: int, messages: int, through: int, folder: Path) -> dict[str, Any]:
    """Pass messages through decoding and admission, and a share through a worker."""
    began = time.perf_counter()
    with progress("decode", "messages", messages) as report:
        passed, memory = decode_all(Mutator(seed).messages(messages), seed, report)
    seconds = time.perf_counter() - began
    found: dict[str, Any] = {
        "seed": seed,
        "messages": passed.made,
        "accepted": passed.accepted,
        "rejected": dict(passed.rejected),
        "mutations": dict(passed.mutations),
        "failures": passed.failures,
        "seconds": round(seconds, 1),
        "memory": memory.result(),
    }
    slope = found["memory"]["slope_mb_a_million"]
    checks = {
        "nothing raised": not passed.failures,
        "accepted and rejected add up": passed.adds_up,
        "memory stays": slope < SLOPE_MB_MAX or messages < 200_000,  # noqa: PLR2004
        "each reason of decoding came": {"malformed", "schema", "too_large"}
        <= set(passed.rejected),
    }
    if through:
        settings = replace(Settings(), state_dir=str(folder), event_age_days_max=0.0)
        found["worker"] = through_servers(settings, seed + 1, through)
        checks |= found["worker"].pop("checks")
    return found | {"checks": checks}


@click.command()
@click.option("--messages", default=1_000_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--worker",
    "through",
    default=50_000,
    show_default=True,
    help="How many go through a real worker as well; 0: none.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON alone.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Keep the servers' data there.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON to a file as well.")
def main(
    messages: int, seed: int, through: int, as_json: bool, state_dir: Path | None, out: Path | None
) -> None:  # fmt: skip
    """Pass mutated messages through, and account for every one."""
    folder: Any = nullcontext(state_dir) if state_dir else TemporaryDirectory(prefix="fraudstream-")
    with folder as place:
        found = run(seed, messages, through, Path(place))
    text = json.dumps(found | {"machine": machine()}, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(text)
    else:
        for name, holds in found["checks"].items():
            click.echo(f"{'ok' if holds else 'NOT SO':>6}  {name}")
    sys.exit(0 if all(found["checks"].values()) else 1)


if __name__ == "__main__":
    main()

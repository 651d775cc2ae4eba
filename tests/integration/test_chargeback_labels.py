"""A chargeback file on real Kafka and Redis: twice is once, and a newer file adds what is new."""

from contextlib import closing
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.records import TrainingExample, decode_examples
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRAINING, TRANSACTIONS
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, hashes, keyed, read, send
from tests.resetting import reset
from tests.strategies import event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PARTITIONS = 2
NAMES = [f"t{number}" for number in range(6)]
HEAD = "Transaction ID,Card Token,Amount,Currency,Transaction Date,Reason Code,Status,Case ID,"
HEAD += "Chargeback Date\n"
DAY = "2021-01-04"


def row(name: str, number: int, *, reason: str = "10.4", status: str = "", day: str = "10") -> str:
    """Give a row of the card of this number; without a name it is found by its token."""
    case = f"k{number}"
    return f"{name},c{number},{number}.00,EUR,{DAY},{reason},{status},{case},2021-02-{day}\n"


def publish(file: Path, settings: Settings) -> tuple[int, str]:
    """Run the command; gives its exit code and what it said."""
    done = CliRunner().invoke(
        cli,
        ["labels", str(file), "--time-zone", "UTC", "--partitions", str(PARTITIONS)]
        + ["--kafka-servers", settings.kafka_servers, "--redis-url", settings.redis_url]
        + ["--state-dir", settings.state_dir],
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def examples(settings: Settings) -> list[TrainingExample]:
    found = decode_examples(record.value for record in read(settings, TRAINING))
    return [example for example in found if example is not None]


def labels_done(client: redis.Redis) -> int:
    """Count the labels that had their consequence."""
    names = ("learned", "corrected", "repeated", "confirmed", "contradicted", "superseded")
    ledgers = hashes(client, "ledger", PARTITIONS)
    return sum(int(ledger.get(name, 0)) for ledger in ledgers for name in names)


def test_a_file_that_comes_twice_changes_nothing(stack: Endpoints, tmp_path: Path) -> None:
    settings = Settings(
        state_dir=str(tmp_path), kafka_servers=stack.kafka_servers, redis_url=stack.redis_url,
        partitions=PARTITIONS, label_linger_seconds=0.0,
    )  # fmt: skip
    reset(stack, settings)
    events = [
        keyed(
            settings, f"c{n}", event_bytes(transaction_id=name, card_id=f"c{n}", amount=f"{n}.00")
        )
        for n, name in enumerate(NAMES)
    ]
    send(settings, TRANSACTIONS, events)
    old, newer = tmp_path / "january.csv", tmp_path / "february.csv"
    rows = [row("t1", 1), row("", 2, reason="13.1"), row("t3", 3, reason="12.5"), row("t9", 7)]
    old.write_text(HEAD + "".join(rows), encoding="utf-8")
    won = row("t1", 1, status="won", day="20")
    newer.write_text(HEAD + "".join([*rows[:3], won, row("t4", 4)]), encoding="utf-8")

    with redis.from_url(stack.redis_url) as client, Processes(settings) as processes:
        processes.ready("worker")
        with closing(Log(settings, DECISIONS)) as log:
            wait_until(lambda: len(log.read()) == len(NAMES), "all are decided")
        for times in (1, 2):
            code, said = publish(old, settings)
            assert (code, "published  2" in said) == (1, True), said
            assert "line 5: unmatched: no decision has its reference" in said
            wait_until(lambda: labels_done(client) == 2 * times, "the file's labels are joined")  # noqa: B023
            assert [(item.transaction_id, item.verdict) for item in learned(settings)] == [
                ("t1", "fraud"), ("t2", "genuine"),
            ]  # fmt: skip
        for times in (1, 2):
            code, said = publish(newer, settings)
            assert (code, "published  4" in said) == (0, True), said
            wait_until(lambda: labels_done(client) == 4 + 4 * times, "the labels are joined")  # noqa: B023

    found = learned(settings)
    assert [(item.transaction_id, item.verdict, item.source) for item in found] == [
        ("t1", "fraud", "chargeback"), ("t1", "genuine", "dispute_won"),
        ("t2", "genuine", "chargeback"), ("t4", "fraud", "chargeback"),
    ]  # fmt: skip
    assert found[1].supersedes == found[0].training_seq
    assert read(settings, DEAD_LETTERS) == [], "every label was signed by its source"


def learned(settings: Settings) -> list[TrainingExample]:
    """Give what was learned, by transaction, in the order of learning."""
    return sorted(examples(settings), key=lambda item: (item.transaction_id, item.training_seq))

"""The analyst's road through the real commands: an alert, an answer, a new version, a decision."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import redis
from click.testing import CliRunner, Result

from consumers import review_commands as commands
from consumers.model_pointer import CHAMPION_KEY, Champion
from pipeline.cli import main
from pipeline.durations import DAY_MS
from pipeline.keys import init_keys
from pipeline.records import DecisionRecord, TrainingExample, decode_decisions, decode_examples
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, FEEDBACK, MODELS, TRAINING, TRANSACTIONS
from producers.batch import joined
from producers.encoding import LabelEncoder, TransactionEncoder
from producers.feed import limited
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, key_of, keyed, read, send
from tests.resetting import reset
from tests.strategies import CARD, event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TOLD = 400
LATER = 40


@dataclass
class Review:
    """A worker that reviews everything, a trainer, a monitor, and an analyst's answers."""

    settings: Settings
    redis: redis.Redis
    ids: list[str] = field(default_factory=list)
    before: list[dict[str, Any]] = field(default_factory=list)
    limited: list[dict[str, Any]] = field(default_factory=list)
    table: str = ""
    answers: list[Result] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    version_before: str = ""
    version_after: str = ""
    later: list[str] = field(default_factory=list)
    watched: float = 0.0

    def run(self, command: click.Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, arguments, obj=self.settings)

    def alerts(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run(commands.alerts, "--json", *arguments)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    def champion(self) -> str:
        found = [r.value for r in read(self.settings, MODELS) if r.key == CHAMPION_KEY]
        return msgspec.json.decode(found[-1], type=Champion).version if found else ""

    def decided(self) -> dict[str, DecisionRecord]:
        found = decode_decisions(record.value for record in read(self.settings, DECISIONS))
        return {item.transaction_id: item for item in found if item is not None}

    def training(self) -> list[TrainingExample]:
        found = decode_examples(record.value for record in read(self.settings, TRAINING))
        return [item for item in found if item is not None]

    def publish(self, names: Sequence[str], *, days: int) -> None:
        """Publish transactions, some for each partition, so many days after the first."""
        time_ms = self.settings_time_ms + days * DAY_MS
        events = []
        for number, name in enumerate(names):
            card = key_of(number % self.settings.partitions, self.settings)
            value = event_bytes(transaction_id=name, card_id=card, event_time=time_ms)
            events.append(keyed(self.settings, card, value))
        send(self.settings, TRANSACTIONS, events)

    settings_time_ms: int = 0


def waits_for_all(review: Review, names: Sequence[str]) -> None:
    wanted = {name.encode() for name in names}
    with closing(Log(review.settings, DECISIONS)) as log:
        wait_until(lambda: wanted <= {record.key for record in log.read()}, "all are decided")


def learn_something(review: Review) -> None:
    """Publish transactions and labels of most of them, so that the model has reasons."""
    world = SimulatorOptions(customers=100, terminals=20, days=30, bursts_a_day=0.3)
    whole = joined(list(limited(simulate(world), TOLD + LATER)))
    review.ids, review.settings_time_ms = whole.transaction_id, int(whole.event_time_ms[-1])
    values = TransactionEncoder(CARD).encode(whole)
    events = [
        keyed(review.settings, card, value)
        for card, value in zip(whole.keys[0], values, strict=True)
    ]
    send(review.settings, TRANSACTIONS, events[:TOLD])
    waits_for_all(review, review.ids[:TOLD])
    known = whole.slice(0, TOLD)
    times = (known.event_time_ms + 60_000).tolist()
    frauds = (known.is_fraud == 1).tolist()
    told = LabelEncoder(CARD).encode(known.transaction_id, known.keys[0], frauds, times)
    labels = [
        keyed(review.settings, card, value) for card, value in zip(known.keys[0], told, strict=True)
    ]
    send(review.settings, FEEDBACK, labels)
    wait_until(lambda: review.champion() == f"additive@{TOLD}", "a version has learned all of them")
    send(review.settings, TRANSACTIONS, events[TOLD:])
    waits_for_all(review, review.ids)


def answer(review: Review) -> None:
    """Answer the two first alerts, and publish what comes later until a later version decides."""
    review.before = review.alerts("--limit", "1000")
    review.limited = review.alerts("--limit", "5")
    review.table = review.run(commands.alerts, "--limit", "5").stdout
    review.version_before = review.champion()
    review.answered = [alert["transaction_id"] for alert in review.before[:2]]
    for name, verdict in zip(review.answered, ("fraud", "genuine"), strict=True):
        review.answers.append(review.run(commands.label, name, verdict, "--by", "ana", "--json"))
    wait_until(
        lambda: review.champion() == f"additive@{TOLD + 2}", "a version has learned the answers"
    )
    review.version_after = review.champion()
    review.after = review.alerts("--limit", "1000")
    # The worker hears of the version by itself, so some are decided before it does.
    while review.version_after not in {d.model_version for d in review.decided().values()}:
        assert len(review.later) < 100, "the version was never adopted"
        review.later.append(f"later-{len(review.later)}")
        review.publish(review.later[-1:], days=0)
        waits_for_all(review, review.later[-1:])


def let_days_pass(review: Review) -> None:
    """Advance every partition beyond the maturity of all that was reviewed."""
    partitions = range(review.settings.partitions)
    review.publish([f"last-{partition}" for partition in partitions], days=10)

    decisions = Log(review.settings, DECISIONS)

    def all_are_mature() -> bool:
        stored = {p: review.redis.get(f"pos:feedback:{p}") or b"0" for p in partitions}
        matured = {p: int(position.split(b":")[-1]) for p, position in stored.items()}
        return matured == {p: end - 1 for p, end in decisions.ends.items()}

    with closing(decisions):
        wait_until(all_are_mature, "all but the last are mature")


@pytest.fixture(scope="module")
def review(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("review")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        review_score_min=0.000001,
        decline_score_min=1.0,
        maturity_days=1.0,
        snapshot_interval_seconds=0.1,
    )
    reset(stack, settings)
    with redis.from_url(stack.redis_url) as client, Processes(settings) as processes:
        review = Review(settings, client)
        _, _, monitor = processes.ready("worker", "trainer", "monitor")
        learn_something(review)
        answer(review)
        let_days_pass(review)
        decided = len(review.decided())
        wait_until(
            lambda: monitor.total("fraud_observed_decisions_total") == decided, "it has read all"
        )
        review.watched = monitor.samples("fraud_observed_decisions_total")['action="review"']
        yield review


def test_alerts_are_those_without_an_answer_highest_score_first(review: Review) -> None:
    scores = [alert["score"] for alert in review.before]

    assert {alert["transaction_id"] for alert in review.before} == set(review.ids[TOLD:])
    assert scores == sorted(scores, reverse=True)
    assert review.limited == review.before[:5]


def test_an_alert_says_what_was_decided_and_why(review: Review) -> None:
    decided = review.decided()
    for alert in review.before:
        decision = decided[alert["transaction_id"]]
        assert alert == {
            "transaction_id": decision.transaction_id,
            "event_time": decision.event_time,
            "keys": decision.keys,
            "amount": decision.amount,
            "currency": decision.currency,
            "score": decision.score,
            "reasons": [list(reason) for reason in decision.reasons],
            "model_version": decision.model_version,
        }
    assert any(alert["reasons"] for alert in review.before)


def test_the_table_is_for_people(review: Review) -> None:
    first = review.limited[0]

    assert first["transaction_id"] in review.table
    assert review.table.rstrip().endswith(f"5 of {LATER} alerts")


def test_an_answer_leaves_the_queue_and_is_learned_as_the_analysts(review: Review) -> None:
    learned = {example.label_id: example for example in review.training()}
    left = {alert["transaction_id"] for alert in review.after}

    assert left == set(review.ids[TOLD:]) - set(review.answered)
    for result, name, verdict in zip(
        review.answers, review.answered, ("fraud", "genuine"), strict=True
    ):
        said = json.loads(result.stdout)
        example = learned[said["label_id"]]
        assert (said["transaction_id"], said["source"], said["by"]) == (name, "analyst", "ana")
        assert (example.transaction_id, example.verdict, example.source) == (
            name,
            verdict,
            "analyst",
        )


def test_an_answer_makes_a_version_that_decides_from_then_on(review: Review) -> None:
    decided = review.decided()
    versions = [decided[name].model_version for name in review.later]

    assert review.version_before == f"additive@{TOLD}"
    assert review.version_after == f"additive@{TOLD + 2}"
    assert set(versions) <= {review.version_before, review.version_after}
    assert versions[-1] == review.version_after


def test_what_was_held_for_review_never_matures(review: Review) -> None:
    assert {decision.action for decision in review.decided().values()} == {"review"}
    assert "matured" not in {example.source for example in review.training()}


def test_the_monitor_has_seen_every_decision(review: Review) -> None:
    assert review.watched == len(review.decided())


def test_an_answer_to_nothing_says_so(review: Review) -> None:
    result = review.run(commands.label, "nowhere", "fraud")

    assert result.exit_code == 1
    assert "no decision of transaction 'nowhere' is kept" in str(result.exception)


def test_a_verdict_is_one_of_two(review: Review) -> None:
    assert review.run(commands.label, review.ids[0], "perhaps").exit_code == 2


def fraudstream(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end by itself, without settings of the environment."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("FRAUD_")}
    program = "from pipeline.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["worker", "trainer", "monitor", "alerts"])
def test_without_servers_a_command_says_what_to_do_in_one_line(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fraudstream", command, f"--state-dir={tmp_path}"])
    with pytest.raises(SystemExit) as exited:
        main()
    out, err = capsys.readouterr()

    assert (exited.value.code, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith("fraudstream: kafka_servers is not set and no embedded servers run")
    assert "fraudstream up" in line


@pytest.mark.parametrize("command", ["worker", "trainer"])
def test_a_kafka_that_does_not_answer_is_named_in_one_line(
    command: str, stack: Endpoints, tmp_path: Path
) -> None:
    init_keys(tmp_path / "keys")
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        servers = (f"--kafka-servers={address}", f"--redis-url={stack.redis_url}")
        done = fraudstream(tmp_path, command, f"--state-dir={tmp_path}", *servers)

    assert done.returncode == 1
    # The client logs its own tries before.
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"fraudstream: no Kafka broker answers at {address}: "
        "start it (fraudstream up), or set kafka_servers"
    )


@pytest.mark.parametrize(("command", "what"), [("worker", "check"), ("trainer", "sign")])
def test_keys_that_are_not_there_are_named_in_one_line(
    command: str, what: str, stack: Endpoints, tmp_path: Path
) -> None:
    servers = (f"--kafka-servers={stack.kafka_servers}", f"--redis-url={stack.redis_url}")
    done = fraudstream(tmp_path, command, f"--state-dir={tmp_path}", *servers)

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"fraudstream: there is no key to {what} models with in {tmp_path}/keys")


@pytest.mark.parametrize("command", ["worker", "trainer"])
def test_a_redis_that_does_not_answer_is_named_in_one_line(
    command: str, stack: Endpoints, tmp_path: Path
) -> None:
    init_keys(tmp_path / "keys")
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        servers = (f"--kafka-servers={stack.kafka_servers}", f"--redis-url=redis://{place}")
        done = fraudstream(tmp_path, command, f"--state-dir={tmp_path}", *servers)

    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            f"fraudstream: no Redis answers at redis://{place}: "
            "start it (fraudstream up), or set redis_url"
        ],
    )

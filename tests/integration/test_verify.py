"""What live processes decided is made again from their logs: by `verify`, and by `replay`.

Each story is told once; the tests look at what it left.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import redis
from click.testing import CliRunner, Result

from consumers.models_command import models
from consumers.verify_command import verify
from models import make_model
from models.snapshot import encode
from pipeline.durations import DAY_MS
from pipeline.engine import Decisions
from pipeline.features import FeatureKernel
from pipeline.keys import init_keys
from pipeline.records import DecisionRecord, decode_decisions, encode_record
from pipeline.replay import Replay, ReplayOptions
from pipeline.rules import load_rules
from pipeline.sealing import read_sealed, seal
from pipeline.settings import Settings
from pipeline.signing import LabelSigner, ModelSigner, ModelVerifier
from pipeline.topics import DECISIONS, MODELS, TRAINING, TRANSACTIONS
from producers.batch import joined
from producers.datasets import read_events
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, publish
from producers.replay_command import replay
from producers.simulator import SimulatorOptions, simulate
from producers.writing import write_events
from stack.mistakes_command import mistakes
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, hashes, read, send
from tests.resetting import reset
from tests.strategies import CARD, event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KERNEL = FeatureKernel(CARD)
EVENTS, HALF = 3_000, 1_500
RATE = 600
WORLD = SimulatorOptions(customers=100, terminals=50, days=1_000, bursts_a_day=0.1)


@dataclass
class Life:
    """A service with a number of partitions, what was published to it, and its commands."""

    settings: Settings
    redis: redis.Redis
    transactions: int = 0
    labels: int = 0

    def run(self, *arguments: str, **changes: object) -> Result:
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        return CliRunner().invoke(verify, arguments, obj=settings)

    def publish(self, part: slice, *, rate: float) -> None:
        """Publish a part of the events, with labels a day later."""
        events = joined(list(limited(simulate(WORLD), EVENTS)))
        done = publish(
            [events.slice(part.start, part.stop)],
            CARD,
            self.settings.kafka_servers,
            pace=Pace(rate=rate),
            labels=LabelOptions(delay_ms=DAY_MS, to_end=True),
            signer=LabelSigner.of(self.settings),
        )
        self.transactions += done.transactions
        self.labels += done.labels

    def is_drained(self) -> bool:
        """Say whether all is decided and, since each label is learned here, learned."""
        with (
            closing(Log(self.settings, DECISIONS)) as decisions,
            closing(Log(self.settings, TRAINING)) as training,
        ):
            decided, examples = sum(decisions.ends.values()), training.ends[0]
        ledgers = hashes(self.redis, "ledger", self.settings.partitions)
        joined_labels = sum(int(ledger.get("learned", 0)) for ledger in ledgers)
        learned = int((self.redis.get("pos:training") or b"0").split(b":")[0])
        is_done = decided >= self.transactions and joined_labels == self.labels
        return is_done and learned == examples

    def decisions(self) -> list[DecisionRecord]:
        found = decode_decisions(record.value for record in read(self.settings, DECISIONS))
        return [item for item in found if item is not None]


# All three actions come up; the taught model gives scores of its own.
ALL_ACTIONS: dict[str, object] = {"review_score_min": 0.012, "decline_score_min": 0.02}
TAUGHT_ACTIONS: dict[str, object] = {"review_score_min": 0.009, "decline_score_min": 0.012}


def life_of(
    stack: Endpoints, folder: Path, story: Callable[[Life, Processes], None], **changes: object
) -> Iterator[Life]:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(folder),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        snapshot_interval_seconds=0.3,
        **(ALL_ACTIONS | changes),  # type: ignore[arg-type]
    )
    reset(stack, settings)
    with redis.from_url(stack.redis_url) as client:
        life = Life(settings, client)
        with Processes(settings) as processes:
            story(life, processes)
        yield life


def four_partitions(life: Life, processes: Processes) -> None:
    """Two workers and a trainer; one of the workers dies, and another comes."""
    _, second, _ = processes.ready("worker", "worker", "trainer")
    life.publish(slice(0, HALF), rate=RATE)
    second.started.process.kill()
    life.publish(slice(HALF, EVENTS), rate=RATE)
    processes.ready("worker")
    wait_until(life.is_drained, "everything is decided and learned", seconds_max=90.0)


@pytest.fixture(scope="module")
def four(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    yield from life_of(stack, tmp_path_factory.mktemp("four"), four_partitions)


def test_the_costliest_mistakes_are_told_from_the_logs(four: Life) -> None:
    result = CliRunner().invoke(mistakes, ["--top", "20", "--json"], obj=four.settings)
    assert result.exit_code == 0, result.output
    totals, *found = (json.loads(line) for line in result.stdout.splitlines())
    decisions = {item.transaction_id: item for item in four.decisions()}

    assert totals["labels"] == four.labels
    assert len(found) == min(20, totals["missed_frauds"] + totals["false_declines"]) > 5
    for item in found:
        decision = decisions[item["transaction_id"]]
        wanted = "approve" if item["kind"] == "missed_fraud" else "decline"
        assert (decision.action, decision.score) == (wanted, item["score_then"])
        # Made again by the version that decided, and the very same.
        assert [tuple(reason) for reason in item["reasons"]] == decision.reasons
    # Labels of others lie between a decision and its own label: most scores end on the right side.
    righted = [
        (item["score_learned"] > item["score_then"]) == (item["kind"] == "missed_fraud")
        for item in found
    ]
    assert sum(righted) > 0.7 * len(found)


def test_every_decision_of_four_partitions_is_made_again(four: Life) -> None:
    result = four.run("--all", "--json")
    found = json.loads(result.stdout)

    assert result.exit_code == 0, result.output
    assert found["distinct"] == found["equal"] == EVENTS
    assert found["read"] == EVENTS + found["repeated"]
    assert (found["different"], found["conflicting"], found["not_recomputed"]) == (0, 0, {})
    assert len({item.model_version for item in four.decisions()}) > 5


def test_published_snapshots_are_the_fold(four: Life) -> None:
    found = json.loads(four.run("--all", "--json").stdout)["snapshots"]

    assert found["equal"] > 4
    assert (found["different"], found["unchecked"]) == ([], 0)


def test_the_table_says_the_same(four: Life) -> None:
    result = four.run("--all")

    assert result.exit_code == 0
    assert f"equal {EVENTS:,}  different 0" in result.stdout


def test_features_of_four_partitions_are_refused_in_plain_words(four: Life) -> None:
    result = four.run("--all", "--features")

    assert result.exit_code == 1
    assert "features can be made again with one partition only" in str(result.exception)


def test_other_thresholds_are_said_and_earlier_ones_can_be_given(four: Life) -> None:
    other = {"review_score_min": 0.5, "decline_score_min": 0.6}
    refused = four.run("--all", "--json", "--champion-only", **other)
    given = four.run("--all", "--json", "--champion-only", "--policy", "0.012,0.02", **other)

    assert refused.exit_code == 1
    assert list(json.loads(refused.stdout)["not_recomputed"].values()) == [EVENTS]
    assert given.exit_code == 0
    assert json.loads(given.stdout)["equal"] == EVENTS


def test_one_decision_is_shown_and_made_again(four: Life) -> None:
    decision = max(four.decisions(), key=lambda item: item.label_offset)
    by_key = four.run(decision.transaction_id, "--key", decision.keys["card"])
    result = four.run(decision.transaction_id, "--json")
    found = json.loads(result.stdout)

    assert (result.exit_code, by_key.exit_code) == (0, 0)
    assert (found["equal"], found["different"]) == (True, [])
    assert found["recomputed"]["score"] == found["decision"]["score"] == decision.score
    # Less than the offset, where the log holds what was published again after a crash.
    assert 0 < found["labels_learned"] <= int(decision.model_version.partition("@")[2])
    assert (
        f"scored by {decision.model_version}, {found['labels_learned']:,} labels" in by_key.stdout
    )


def test_a_decision_that_is_not_there_is_said(four: Life) -> None:
    result = four.run("never")

    assert result.exit_code == 1
    assert "no decision of transaction 'never'" in str(result.exception)


def test_versions_are_listed_and_saved(four: Life, tmp_path: Path) -> None:
    listed = CliRunner().invoke(models, ["list", "--json"], obj=four.settings)
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    [champion] = [row for row in rows if row["role"] == "champion"]
    file = tmp_path / "champion.snapshot"
    saved = CliRunner().invoke(models, ["save", "champion", str(file)], obj=four.settings)
    unknown = CliRunner().invoke(models, ["save", "additive@1", str(file)], obj=four.settings)

    assert saved.exit_code == 0, saved.output
    [published] = [r for r in read(four.settings, MODELS) if r.key == champion["version"].encode()]
    assert file.read_bytes() == published.value
    assert champion["learned"] == EVENTS <= champion["training_offset"]
    assert champion["version"] in CliRunner().invoke(models, ["list"], obj=four.settings).stdout
    assert "version 'additive@1' is not published" in str(unknown.exception)


def test_a_forged_decision_is_named(four: Life) -> None:
    """The last of these tests: what it publishes stays in the log."""
    [record, *_] = read(four.settings, DECISIONS)
    [decision] = decode_decisions([record.value])
    assert decision is not None
    text = repr(decision.score).encode()
    forged = record.value.replace(text, text[:-1] + b"%d" % ((text[-1] - 47) % 10), 1)
    assert len(forged) == len(record.value)
    [(partition, offset)] = send(four.settings, DECISIONS, [(record.partition, record.key, forged)])

    result = four.run("--all", "--json")
    found = json.loads(result.stdout)
    one = four.run(decision.transaction_id)

    assert (result.exit_code, one.exit_code) == (1, 1)
    assert (found["different"], found["conflicting"], found["equal"]) == (1, 1, EVENTS)
    assert {finding["transaction_id"] for finding in found["findings"]} == {decision.transaction_id}
    score = next(finding for finding in found["findings"] if finding["what"] == "score")
    assert score["place"] == f"decisions[{partition}] offset {offset}"
    assert score["expected"] == decision.score != score["got"]


def one_partition(life: Life, processes: Processes) -> None:
    """A worker that is killed and followed by another, among events that are refused."""
    worker, _ = processes.ready("worker", "trainer")
    odd = [b"hello", event_bytes(event_time="2099-01-01T00:00:00Z"), None]
    send(life.settings, TRANSACTIONS, [(0, b"c1", value) for value in odd])
    life.publish(slice(0, HALF), rate=RATE)
    worker.started.process.kill()
    processes.ready("worker")
    life.publish(slice(HALF, EVENTS), rate=RATE)
    wait_until(life.is_drained, "everything is decided and learned", seconds_max=90.0)


@pytest.fixture(scope="module")
def one(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    yield from life_of(stack, tmp_path_factory.mktemp("one"), one_partition, partitions=1)


def test_with_one_partition_the_features_are_made_again_too(one: Life) -> None:
    # The number of partitions is that of the topic, whatever the settings say.
    result = one.run("--all", "--features", "--json", partitions=4)
    found = json.loads(result.stdout)
    features = found["features"]

    assert result.exit_code == 0, result.output
    assert found["equal"] == features["equal"] == EVENTS
    assert (features["different"], features["missing"], features["unexpected"]) == (0, 0, 0)
    assert (features["rejected"], features["transactions"]) == (3, EVENTS + 3)
    assert len({item.label_offset for item in one.decisions()}) > 5


def test_a_feature_that_was_changed_is_named(one: Life) -> None:
    """The last of these tests: a decision more stays in the log, of an event more."""
    place = send(one.settings, TRANSACTIONS, [(0, b"c1", event_bytes(transaction_id="more"))])[0]
    last = one.decisions()[-1]
    forged = msgspec.structs.replace(last, transaction_id="more", source=(TRANSACTIONS, *place))
    send(one.settings, DECISIONS, [(0, b"more", encode_record(forged))])

    result = one.run("--all", "--features", "--json")
    found = json.loads(result.stdout)

    assert result.exit_code == 1
    assert (found["equal"], found["features"]["different"]) == (EVENTS + 1, 1)
    assert found["features"]["findings"][0]["transaction_id"] == "more"


@dataclass
class Fixed:
    """A worker with a model that nobody teaches, and the file that it was given the events of."""

    life: Life
    file: Path
    snapshot: Path

    @cached_property
    def live(self) -> dict[str, DecisionRecord]:
        return {item.transaction_id: item for item in self.life.decisions()}


def taught() -> bytes:
    """Give a model that has learned something, as `models save` would."""
    chance = np.random.default_rng(5)
    model = make_model("additive", KERNEL.names)
    rows = chance.normal(3.0, 3.0, (500, len(KERNEL.names))).astype(np.float32)
    model.learn(rows, (rows[:, 0] > 8.8).astype(np.int8), np.ones(500))
    return encode(
        model, version="additive@500", training_offset=500, schema_hash=KERNEL.schema_hash
    )


@pytest.fixture(scope="module")
def fixed(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixed]:
    folder = tmp_path_factory.mktemp("fixed")
    file, snapshot = folder / "events.parquet", folder / "model.snapshot"
    write_events(file, limited(simulate(WORLD), EVENTS), CARD)

    def story(life: Life, processes: Processes) -> None:
        snapshot.write_bytes(seal(taught(), ModelSigner(life.settings)))
        done = CliRunner().invoke(models, ["publish", str(snapshot)], obj=life.settings)
        assert done.exit_code == 0, done.output
        processes.ready("worker")
        done = publish(read_events(file, CARD), CARD, life.settings.kafka_servers, labels=None)
        life.transactions = done.transactions
        wait_until(life.is_drained, "everything is decided", seconds_max=60.0)

    for life in life_of(stack, folder, story, partitions=1, challengers="none", **TAUGHT_ACTIONS):
        yield Fixed(life, file, snapshot)


def test_a_replay_with_the_model_in_force_decides_the_same_bit_for_bit(fixed: Fixed) -> None:
    decided: list[Decisions] = []
    batches = ((part.transactions(), part.is_fraud) for part in read_events(fixed.file, CARD))
    run = Replay(
        CARD,
        replace(fixed.life.settings, batch_events_max=333),
        ReplayOptions(DAY_MS),
        decided=decided.append,
        snapshot=read_sealed(fixed.snapshot.read_bytes(), ModelVerifier(fixed.life.settings)),
        rules=load_rules(fixed.life.settings, CARD),
    )

    run.run(batches, lambda _: None)

    replayed = [
        item
        for part in decided
        for item in part.records(TRANSACTIONS, 0, range(int(part.rows.max()) + 1))
    ]
    assert len(replayed) == len(fixed.live) == EVENTS
    for item in replayed:
        live = fixed.live[item.transaction_id]
        # All but the offset in the log, which a file does not have.
        assert msgspec.structs.replace(item, source=live.source) == live
    assert {item.model_version for item in replayed} == {"additive@500"}
    assert {item.action for item in replayed} == {"approve", "review", "decline"}


def test_the_replay_command_gives_the_scores_of_the_live_run(fixed: Fixed, tmp_path: Path) -> None:
    out = tmp_path / "decisions.parquet"
    options = ["--snapshot", str(fixed.snapshot), "--no-learn", "--decisions", str(out), "--json"]
    settings = Settings(keys_dir=str(fixed.life.settings.keys_path))
    result = CliRunner().invoke(replay, [str(fixed.file), *options], obj=settings)
    found = json.loads(result.stdout)
    rows = pq.read_table(out).to_pylist()

    assert (found["events"], found["model_version"], found["labels"]) == (
        EVENTS,
        "additive@500",
        {},
    )
    assert [(row["transaction_id"], row["score"]) for row in rows] == [
        (row["transaction_id"], fixed.live[row["transaction_id"]].score) for row in rows
    ]


def test_a_file_that_nobody_here_signed_is_not_replayed(fixed: Fixed, tmp_path: Path) -> None:
    options = ["--snapshot", str(fixed.snapshot), "--no-learn"]
    bare = CliRunner().invoke(
        replay, [str(fixed.file), *options], obj=Settings(keys_dir=str(tmp_path))
    )
    init_keys(tmp_path)
    strange = CliRunner().invoke(
        replay, [str(fixed.file), *options], obj=Settings(keys_dir=str(tmp_path))
    )

    assert "no key to check models with in" in str(bare.exception)
    assert "snapshot: it must be signed by a known key (got 'models-1-" in str(strange.exception)


def test_what_a_published_model_decided_is_verified_by_it(fixed: Fixed) -> None:
    result = fixed.life.run("--all", "--features", "--json")
    found = json.loads(result.stdout)

    assert result.exit_code == 0, result.output
    assert found["equal"] == found["features"]["equal"] == EVENTS


def test_a_model_that_is_not_newer_is_not_published(fixed: Fixed) -> None:
    again = CliRunner().invoke(models, ["publish", str(fixed.snapshot)], obj=fixed.life.settings)

    assert again.exit_code == 1
    assert "additive@500 is in force" in str(again.exception)

"""History read from a file, cut over, and gone on with live: as if all of it had been live.

One system runs live over the whole history, in lock step. The other reads the first part from a
file and is live from a named position on. Then everything that both hold is compared.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from click.testing import CliRunner, Result

from benchmarks.chaos.held import write_rows_back
from consumers.entity_rows import NUMBER_BYTES
from consumers.model_pointer import CHAMPION_KEY, Champion
from pipeline.durations import DAY_MS
from pipeline.feedback_encoding import encode_label
from pipeline.history import HistoryRecord, HistoryStep
from pipeline.partitioner import partition_of
from pipeline.sealing import opened
from pipeline.settings import Settings
from pipeline.signing import ModelVerifier
from pipeline.stored_rows import unsealed
from pipeline.topics import DEAD_LETTERS, DECISIONS, MODELS, TRAINING, TRANSACTIONS
from producers.batch import EventBatch, joined
from producers.encoding import amount_texts
from producers.feed import limited
from producers.history import History, HistoryOptions
from producers.simulator import SimulatorOptions, simulate
from stack.backfill_command import backfill
from stack.servers import Endpoints
from tests.integration.lock_step import LockStep
from tests.integration.processes import Processes, read, send
from tests.resetting import reset
from tests.strategies import CARD, label

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PARTITIONS, EVENTS = 2, 2_400
WORLD = SimulatorOptions(customers=100, terminals=40, days=1_000)
STEP_MS = 2 * DAY_MS
OPTIONS = ["--label-delay", "3d", "--step", "2d", "--label-source", "chargeback"]
# Logs of what changes rows, and how far they have come: entries are named by their process.
LOGS = ("additions", "taught", "shared")
# Rows of profiles that events change.
ROWS = ("c", "r", "p")
# Past transactions that the live topic holds as well, some before the cut-over and some behind it.
OVERLAP = 60


def changed(settings: Settings) -> Settings:
    return replace(
        settings,
        partitions=PARTITIONS,
        batch_events_max=128,
        maturity_days=5.0,
        snapshot_interval_seconds=0.05,
        label_linger_seconds=0.01,
        review_score_min=0.012,
        decline_score_min=0.03,
    )


def past() -> EventBatch:
    """Simulated events; of half of the genuine ones nobody ever speaks."""
    events = joined(list(limited(simulate(WORLD), EVENTS)))
    chance = np.random.default_rng(5)
    is_silent = (events.is_fraud == 0) & (chance.random(len(events)) < 0.5)
    return replace(events, is_fraud=np.where(is_silent, -1, events.is_fraud).astype(np.int8))


def write(path: Path, events: EventBatch, *, bad: Sequence[int] = ()) -> Path:
    """Write a CSV file; some rows get an amount that is none."""
    amounts = amount_texts(events.amount_minor.tolist(), 2)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            ["transaction_id", "event_time", "card_id", "terminal_id", "amount", "is_fraud"]
        )
        for row, key in enumerate(events.transaction_id):
            verdict = int(events.is_fraud[row])
            time_ms = int(events.event_time_ms[row])
            ids = [ids[row] for ids in events.keys]
            out.writerow(
                [
                    *(key, time_ms, *ids, "nine" if row in bad else amounts[row]),
                    "" if verdict < 0 else verdict,
                ]
            )
    return path


def steps_of(path: Path, settings: Settings) -> list[HistoryStep]:
    options = HistoryOptions(delay_ms=3 * DAY_MS, step_ms=STEP_MS)
    history = History(
        path, CARD, options, partitions=PARTITIONS, chunk_events=settings.batch_events_max
    )
    return list(history.steps())


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(backfill, [*arguments, *OPTIONS, "--json"], obj=settings)


def done(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@dataclass
class State:
    """All that a system holds at the end of its story."""

    keys: dict[str, object]
    decisions: list[list[dict[str, Any]]]
    decided: list[list[bytes]]
    training: list[bytes]
    champion: dict[str, Any]
    models: dict[str, bytes]
    letters: list[bytes]

    def rows(self, *kinds: str) -> dict[str, object]:
        return {name: value for name, value in self.keys.items() if name.split(":")[0] in kinds}


def keys_of(settings: Settings, client: redis.Redis) -> dict[str, object]:
    """Give all that Redis holds, with every row of a profile at the end of the log of additions."""
    write_rows_back(settings.redis_url, CARD)
    names = [name.decode() for name in sorted(client.keys())]
    return {name: value_of(client, name) for name in names if name not in LOGS}


def value_of(client: redis.Redis, name: str) -> object:
    if name.split(":", maxsplit=1)[0] in ROWS:
        stored = client.get(name)
        assert isinstance(stored, bytes)
        # A row ends in the number of the commit that it holds, and how many there were may differ.
        return unsealed(name, stored)[:-NUMBER_BYTES]
    kind = client.type(name)
    if kind == b"hash":
        return client.hgetall(name)
    if kind == b"zset":
        return client.zrange(name, 0, -1, withscores=True)
    return client.get(name)


def state_of(settings: Settings, client: redis.Redis) -> State:
    records = read(settings, DECISIONS)
    by_partition = [[r.value for r in records if r.partition == p] for p in range(PARTITIONS)]
    models = [record for record in read(settings, MODELS) if record.value is not None]
    pointer = [record.value for record in models if record.key == CHAMPION_KEY][-1]
    champion = msgspec.json.decode(pointer)
    verifier = ModelVerifier(settings)
    names = (champion["version"], *champion["challengers"])
    values = {record.key.decode(): record.value for record in models}
    return State(
        keys=keys_of(settings, client),
        decisions=[[msgspec.json.decode(value) for value in part] for part in by_partition],
        decided=by_partition,
        training=[record.value for record in read(settings, TRAINING)],
        champion=champion,
        models={name: opened(values[name], verifier) for name in names},
        letters=[record.value for record in read(settings, DEAD_LETTERS)],
    )


@dataclass
class Story:
    """What both systems hold, and what the one that read the file said."""

    settings: Settings
    folder: Path
    file: Path
    live: State
    filled: State
    said: dict[str, Any]
    steps: list[HistoryStep]
    past_events: int
    refused: dict[str, str]


def late_label(events: EventBatch) -> HistoryStep:
    """Give an analyst's word about one of the first transactions, of which nobody spoke."""
    row = int(np.flatnonzero(events.is_fraud == -1)[3])
    found = label(
        "late",
        transaction_id=events.transaction_id[row],
        key=events.keys[0][row],
        is_fraud=True,
        source="analyst",
        label_time_ms=int(events.event_time_ms[-1]),
    )
    key = found.key.encode()
    record = HistoryRecord(0, key, encode_label(found, CARD))
    return HistoryStep(0, {partition_of(key, PARTITIONS): [record]})


def live_run(settings: Settings, steps: Sequence[HistoryStep], late: HistoryStep) -> State:
    with (
        Processes(settings) as processes,
        redis.from_url(settings.redis_url) as client,
    ):
        worker, trainer = processes.ready("worker", "trainer")
        driver = LockStep(settings, client, worker, trainer)
        for step in steps:
            driver.step(step)
        driver.learn(late)
        driver.end()
        return state_of(settings, client)


def split(steps: Sequence[HistoryStep]) -> int:
    """Give the step that the file ends before."""
    return len(steps) * 2 // 3


def rest_of(steps: Sequence[HistoryStep], given: int) -> list[HistoryStep]:
    """Give the steps behind the file, without the labels that the backfill has given already."""
    first, *others = steps[split(steps) :]
    before = sum(len(r) for step in steps[: split(steps)] for r in step.labels.values())
    left = given - before
    labels = {p: [r for r in records] for p, records in first.labels.items()}
    order = sorted(
        ((json.loads(r.value)["label_time"], p, r) for p, rs in labels.items() for r in rs),
        key=lambda item: item[0],
    )
    kept = {p: [r for _, q, r in order[left:] if q == p] for p in labels}
    return [replace(first, labels={p: rs for p, rs in kept.items() if rs}), *others]


def filled_run(
    settings: Settings, file: Path, steps: Sequence[HistoryStep], late: HistoryStep
) -> tuple[State, dict[str, Any], dict[str, str]]:
    refused: dict[str, str] = {}
    with (
        Processes(settings) as processes,
        redis.from_url(settings.redis_url) as client,
    ):
        overlap = [
            (p, record)
            for step in steps[: split(steps)]
            for chunk in step.chunks
            for p, records in chunk.items()
            for record in records
        ][-OVERLAP:]
        send(settings, TRANSACTIONS, [(p, r.key, r.value) for p, r in overlap])
        cut = {p: sum(q == p for q, _ in overlap) // 2 for p in range(PARTITIONS)}
        named = ",".join(f"{p}:{offset}" for p, offset in cut.items())
        said = done(run(settings, str(file), "--cut-over", named))
        refused["again"] = str(run(settings, str(file)).exception)
        worker, trainer = processes.ready("worker", "trainer")
        driver = LockStep(settings, client, worker, trainer)
        for step in steps[: split(steps)]:
            for chunk in step.chunks:
                for p, records in chunk.items():
                    times = [json.loads(record.value)["event_time"] for record in records]
                    driver.decided.setdefault(p, []).extend(times)
        driver.probe = (overlap[-1][0], overlap[-1][1].key, overlap[-1][1].value)
        ends = Counter(p for p, _ in overlap)
        for p, end in ends.items():
            driver.wait(
                lambda p=p, end=end: driver.position(f"{TRANSACTIONS}:{p}") == end, "caught up"
            )
        for step in rest_of(steps, said["labels"]["given"]):
            driver.step(step)
        driver.learn(late)
        driver.end()
        return state_of(settings, client), said, refused


@pytest.fixture(scope="module")
def story(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("backfill")
    settings = changed(
        Settings(
            state_dir=str(folder / "state"),
            kafka_servers=stack.kafka_servers,
            redis_url=stack.redis_url,
            # How soon what has expired is swept depends on how many events a commit holds.
            duplicate_days=30.0,
        )
    )
    # A step is one chunk, since live decisions would mature between two of them.
    settings = replace(settings, batch_events_max=1_024)
    events = past()
    steps = steps_of(write(folder / "all.csv", events), settings)
    past_events = steps[split(steps)].first
    file = write(folder / "past.csv", events.slice(0, past_events))
    late = late_label(events)
    reset(stack, settings)
    # What the file's end makes known is learned before the rest, as it was in the other system.
    known = steps_of(file, settings)
    given = sum(len(records) for step in known for records in step.labels.values())
    live = live_run(settings, [*known, *rest_of(steps, given)], late)
    reset(stack, settings)
    filled, said, refused = filled_run(settings, file, steps, late)
    yield Story(settings, folder, file, live, filled, said, steps, past_events, refused)


def different(ours: bytes, theirs: bytes) -> list[tuple[str, object, object]]:
    """Name the fields in which two records differ."""
    a, b = json.loads(ours), json.loads(theirs)
    return [(name, a.get(name), b.get(name)) for name in {*a, *b} if a.get(name) != b.get(name)]


def test_both_systems_have_lived_through_something(story: Story) -> None:
    ledger: Any = story.live.keys["ledger:0"]

    assert sum(map(len, story.live.decided)) == EVENTS
    assert 1_000 < story.past_events < EVENTS - 500
    assert len(story.steps) >= 8
    assert int(ledger[b"matured"]) > 50
    assert int(ledger[b"verdict_fraud"]) > 3
    assert {name for name in ("review:0", "review:1") if name in story.live.keys}
    assert len({item["model_version"] for part in story.live.decisions for item in part}) > 5


def test_decisions_differ_in_where_their_transaction_came_from_and_in_nothing_else(
    story: Story,
) -> None:
    for p in range(PARTITIONS):
        live, filled = story.live.decisions[p], story.filled.decisions[p]
        sources = [(a.pop("source"), b.pop("source")) for a, b in zip(live, filled, strict=True)]

        assert live == filled
        topics = [theirs[0] for _, theirs in sources]
        begin = topics.index(TRANSACTIONS)
        assert set(topics[:begin]) == {"backfill.transactions"}
        assert set(topics[begin:]) == {TRANSACTIONS}
        assert all(ours[0] == TRANSACTIONS for ours, _ in sources)


def test_profiles_and_learned_rows_are_the_same_bytes(story: Story) -> None:
    for kind in ("c", "r", "p", "l"):
        rows = story.live.rows(kind)

        assert len(rows) > 30, kind
        assert story.filled.rows(kind) == rows


def test_remembered_ids_index_and_ledger_are_the_same(story: Story) -> None:
    for kind in ("d", "w", "index", "wm", "wi", "ledger", "model", "review", "pend", "again"):
        assert story.filled.rows(kind) == story.live.rows(kind), kind
    assert len(story.live.rows("w")) > 500


def test_training_examples_are_the_same_bytes_in_the_same_order(story: Story) -> None:
    assert len(story.live.training) > 1_000
    for filled, live in zip(story.filled.training, story.live.training, strict=True):
        assert filled == live, different(filled, live)


def test_the_champion_and_the_challengers_are_the_same_bytes(story: Story) -> None:
    assert story.filled.champion == story.live.champion
    assert story.filled.models == story.live.models
    pointer = msgspec.json.decode(msgspec.json.encode(story.filled.champion), type=Champion)
    assert pointer.training_offset == len(story.live.training)


def test_a_late_label_of_a_past_transaction_joins_what_was_decided_then(story: Story) -> None:
    last = json.loads(story.filled.training[-1])
    [decision] = [
        item
        for part in story.filled.decisions
        for item in part
        if item["transaction_id"] == last["transaction_id"]
    ]

    assert (last["label_id"], last["verdict"]) == ("late", "fraud")
    assert last["features"] == decision["features"]
    assert last["event_time"] < story.steps[1].start_ms


def test_the_command_says_what_it_has_done(story: Story) -> None:
    said = story.said

    assert said["transactions"] == {"decided": story.past_events, "repeated": 0, "rejected": 0}
    assert said["live"]["skipped"] + said["live"]["repeated"] == OVERLAP
    assert said["live"]["skipped"] > 10
    assert said["live"]["repeated"] > 10
    assert (said["live"]["gap"], said["live"]["twice"], said["resumed"]) == (0, 0, False)
    assert said["labels"]["not_due"] > 10
    assert said["labels"]["ledger"]["learned"] == said["examples"]
    assert said["versions_kept"] > 4


def test_a_second_backfill_of_the_same_store_is_refused(story: Story) -> None:
    assert "is done" in story.refused["again"]
    assert "0:" in story.refused["again"]

"""Dead letters sent again after a fix, by the real command, on a real Kafka, Redis and worker."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from kafka import KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord

from consumers.dead_letters import InputRecord, dead_letter
from consumers.redrive import LEDGER, MARKS, Mark, Marks
from consumers.redrive_command import redrive
from pipeline.commit import OutboxRecord
from pipeline.errors import Reason
from pipeline.events import Problem
from pipeline.partitioner import partition_of
from pipeline.records import decode_decisions
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS, TRANSACTIONS
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, key_of, keyed, read, send
from tests.resetting import reset
from tests.strategies import CARD, event_bytes
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

CARD_NUMBER = "4111111111111111"
Headers = list[tuple[str, bytes]]


def run(settings: Settings, *arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(redrive, arguments, obj=settings, input=text)


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def letter(
    offset: int,
    reason: Reason = "schema",
    *,
    key: bytes | None = b"c1",
    value: bytes = b"{}",
    topic: str = TRANSACTIONS,
    headers: Sequence[tuple[str, bytes]] = (),
    partition: int | None = None,
) -> OutboxRecord:
    """Give the dead letter of a record at an offset of its key's partition."""
    at = partition_of(key or b"", 4) if partition is None else partition
    record = InputRecord(topic, at, offset, key, value, timestamp_ms=1, headers=headers)
    problem = Problem(reason, "$.amount", "an amount", f"number {offset}")
    return dead_letter(record, problem, stage="decode", schema=CARD)


def publish(settings: Settings, *letters: OutboxRecord) -> list[str]:
    """Publish dead letters one after the other; gives their places."""
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_servers, acks="all", max_request_size=4 << 20
    )
    places = []
    with closing(producer):
        for item in letters:
            sent = producer.send(
                item.topic, item.value, item.key, headers=item.headers, partition=item.partition
            ).get(30)
            places.append(f"{sent.partition}:{sent.offset}")
    return places


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with redis.from_url(settings.redis_url) as client:
        yield client


def values(settings: Settings, topic: str = TRANSACTIONS) -> list[bytes]:
    return [record.value for record in read(settings, topic)]


# A schema file that was wrong, from the first failure to the decision.

WRONG_SCHEMA = 'field = "terminal_id"'
MENDED_SCHEMA = 'field = "shop_id"'


@dataclass
class Mended:
    """Events whose terminal has another name than the schema file says, until it is mended."""

    settings: Settings
    ids: list[str]
    sent: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    planned: Result | None = None
    first: Result | None = None
    again: Result | None = None
    counted: float = 0.0

    def wait_for(self, topic: str, count: int) -> None:
        with closing(Log(self.settings, topic)) as log:
            wait_until(lambda: len(log.read()) >= count, f"{count} in {topic}", seconds_max=60)

    @property
    def decisions(self) -> list[ConsumerRecord]:
        return read(self.settings, DECISIONS)


def with_schema(settings: Settings, text: str) -> Settings:
    """Give the settings with a schema file of their own."""
    card = (Path(__file__).parents[2] / "schemas" / "card.toml").read_text(encoding="utf-8")
    assert WRONG_SCHEMA in card
    path = Path(settings.state_dir) / "own.toml"
    path.write_text(card.replace(WRONG_SCHEMA, text), encoding="utf-8")
    return replace(settings, schema=str(path))


@pytest.fixture(scope="module")
def mended(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Mended:
    settings = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path_factory.mktemp("mended")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
    )
    reset(stack, settings)
    mended = Mended(settings, [f"t{number}" for number in range(12)])
    for number, name in enumerate(mended.ids):
        card = key_of(number % 4, settings)
        value = event_bytes(transaction_id=name, card_id=card, shop_id="m1", terminal_id=...)
        mended.sent[name] = card.encode(), value
    records = [keyed(settings, key.decode(), value) for key, value in mended.sent.values()]
    wrong = with_schema(settings, WRONG_SCHEMA)
    with Processes(wrong) as processes:
        processes.ready("worker")
        send(settings, TRANSACTIONS, records)
        mended.wait_for(DEAD_LETTERS, len(records))
    right = with_schema(settings, MENDED_SCHEMA)
    mended.planned = run(settings, "send", "--dry-run", "--reason", "schema")
    assert len(read(settings, TRANSACTIONS)) == len(records)
    with Processes(right) as processes:
        [worker] = processes.ready("worker")
        mended.first = run(settings, "send", "--reason", "schema", "--yes", "--by", "ana")
        mended.wait_for(DECISIONS, len(records))
        mended.again = run(settings, "send", "--reason", "schema", "--yes")
        mended.counted = worker.total("fraud_redriven_records_total")
    return mended


@pytest.mark.slow
def test_after_the_fix_each_is_sent_and_decided_once(mended: Mended) -> None:
    assert mended.planned is not None and mended.planned.exit_code == 0
    assert "12 dead letters: 12 to be sent again" in mended.planned.stdout
    assert mended.first is not None and mended.first.exit_code == 0, mended.first.output
    assert "12 dead letters: 12 sent again" in mended.first.stdout
    found = decode_decisions(record.value for record in mended.decisions)
    assert sorted(item.transaction_id for item in found if item) == sorted(mended.ids)
    assert mended.counted == 12


@pytest.mark.slow
def test_a_second_run_sends_nothing(mended: Mended) -> None:
    assert mended.again is not None and mended.again.exit_code == 0
    assert "12 dead letters: 0 sent again, 12 sent before" in mended.again.stdout
    assert len(read(mended.settings, TRANSACTIONS)) == 24


@pytest.mark.slow
def test_what_is_sent_is_the_original_with_where_it_comes_from(mended: Mended) -> None:
    letters: dict[bytes, ConsumerRecord] = {}
    for record in read(mended.settings, DEAD_LETTERS):
        # The next owner published the last outbox once more; the first of two is the one meant.
        letters.setdefault(record.key + record.value, record)
    for record in read(mended.settings, TRANSACTIONS):
        headers = dict(record.headers)
        if not headers:
            continue
        before = letters[record.key + record.value]
        assert headers == {
            "fraud.redrive.source": f"{before.partition}:{before.offset}".encode(),
            "fraud.redrive.by": b"ana",
        }
        assert record.partition == before.partition
        assert (record.key, record.value) in mended.sent.values()


# What is sent and what is not.


def test_original_headers_go_along_and_earlier_ones_of_ours_do_not(settings: Settings) -> None:
    headers = [("trace", b"1"), ("fraud.redrive.source", b"0:9"), ("trace", b"2")]
    [place] = publish(settings, letter(5, headers=headers))

    assert run(settings, "send", "--yes", "--by", "ana").exit_code == 0

    [record] = read(settings, TRANSACTIONS)
    assert record.headers == [
        ("trace", b"1"),
        ("trace", b"2"),
        ("fraud.redrive.source", place.encode()),
        ("fraud.redrive.by", b"ana"),
    ]


def test_a_dead_letter_that_was_published_twice_is_sent_once(settings: Settings) -> None:
    same = letter(5)
    publish(settings, same, same, letter(6))

    listed = lines(run(settings, "list", "--json"))
    assert [item["offset"] for item in listed] == ["6", "5"]
    assert run(settings, "send", "--yes").exit_code == 0
    assert len(values(settings)) == 2


def test_masked_ones_are_refused_whatever_is_asked(settings: Settings) -> None:
    value = event_bytes(transaction_id=CARD_NUMBER)
    publish(settings, letter(5, "card_number", value=value), letter(6))

    result = run(settings, "send", "--yes", "--force", "--json")

    assert result.exit_code == 1
    *each, total = lines(result)
    assert {item["outcome"]: item["why"] for item in each} == {
        "refused": "masked: its bytes are no longer the original ones",
        "sent": "",
    }
    assert (total["sent"], total["refused"]) == (1, 1)
    assert len(values(settings)) == 1


@pytest.mark.parametrize("reason", ["malformed", "too_large", "duplicate_conflict"])
def test_what_the_same_bytes_do_not_mend_needs_force(settings: Settings, reason: Reason) -> None:
    publish(settings, letter(5, reason))

    refused = run(settings, "send", "--yes")
    assert refused.exit_code == 1
    assert "the same bytes would fail again (--force sends them)" in refused.stdout
    assert values(settings) == []

    assert run(settings, "send", "--yes", "--force").exit_code == 0
    assert values(settings) == [b"{}"]


def test_a_record_of_a_wrong_partition_goes_where_its_key_leads(settings: Settings) -> None:
    home = partition_of(b"c1", 4)
    elsewhere = (home + 1) % 4
    publish(
        settings,
        letter(5, "wrong_partition", partition=elsewhere),
        letter(6, "wrong_partition", key=None, partition=elsewhere),
    )

    result = run(settings, "send", "--yes")

    assert result.exit_code == 1
    assert "its key does not lead elsewhere" in result.stdout
    assert [record.partition for record in read(settings, TRANSACTIONS)] == [home]


def test_nobody_is_asked_twice_and_a_no_sends_nothing(settings: Settings) -> None:
    publish(settings, letter(5))

    assert run(settings, "send", text="n\n").exit_code == 1
    # Without anybody to answer it is a no as well.
    assert run(settings, "send", text="").exit_code == 1
    assert values(settings) == []
    assert run(settings, "send", text="y\n").exit_code == 0
    assert values(settings) == [b"{}"]
    assert run(settings, "send", text="").exit_code == 0


def test_a_mark_without_an_answer_is_never_sent_again_and_every_run_says_so(
    settings: Settings, client: redis.Redis
) -> None:
    """A run was killed between the mark and the sending."""
    [place, _] = publish(settings, letter(5), letter(6))
    source = f"transactions:{partition_of(b'c1', 4)}:5"
    Marks(client).take({source: Mark(place, time.time_ns() // 1_000_000, "ana")})

    result = run(settings, "send", "--yes")

    assert result.exit_code == 1
    assert "1 sent again, 1 marked and not confirmed, so perhaps lost" in result.stdout
    assert len(values(settings)) == 1
    [entry] = lines(run(settings, "status", "--json"))
    assert list(entry["unconfirmed"]) == [source]
    assert entry["ledger"] == {"sent": 1, "unconfirmed": 1}
    assert f"{source}, dead letter {place}" in run(settings, "status").stdout
    [_, listed] = lines(run(settings, "list", "--json"))
    assert listed["again"] == {"letter": place, "at_ms": listed["again"]["at_ms"], "by": "ana"}


def test_what_kafka_refuses_at_once_is_not_marked(settings: Settings, client: redis.Redis) -> None:
    publish(settings, letter(5, value=b"x" * (3 << 20)))

    result = run(settings, "send", "--yes")

    assert result.exit_code == 1
    assert "1 failed" in result.stdout
    assert client.hlen(MARKS) == 0
    assert client.hgetall(LEDGER) == {b"failed": b"1"}


def test_a_record_that_fails_again_names_the_dead_letter_before(settings: Settings) -> None:
    [place] = publish(settings, letter(5))
    run(settings, "send", "--yes")
    [record] = read(settings, TRANSACTIONS)
    [second] = publish(settings, letter(9, headers=record.headers))

    assert f"sent again before, as the dead letter {place}" in run(settings, "show", second).stdout
    [shown] = lines(run(settings, "show", second, "--json"))
    assert shown["earlier"] == place
    # It is another record, so it may be sent as well.
    assert run(settings, "send", "--yes").exit_code == 0
    assert len(values(settings)) == 2


def test_old_marks_go_when_their_dead_letters_have(client: redis.Redis) -> None:
    marks, day = Marks(client), 86_400_000
    now = 1_000 * day
    marks.take(
        {
            "gone": Mark("0:4", now - 61 * day, "ana", "t:0:1"),
            "held": Mark("0:5", now - 61 * day, "ana", "t:0:2"),
            "young": Mark("0:4", now - 59 * day, "ana", "t:0:3"),
        }
    )

    marks.prune({0: 5}, now)

    assert set(marks.all()) == {"held", "young"}


# Which are meant.


@pytest.fixture
def some(settings: Settings) -> list[str]:
    """Publish six of different kinds, a moment apart."""
    return publish(
        settings,
        letter(1, value=b'{"transaction_id":"t1"}'),
        letter(2, "malformed", key=b"c2"),
        letter(3, "unknown_transaction", topic="feedback"),
        letter(4, "out_of_time", key=b"c4"),
        letter(5, "schema", key=b"c5", value=b'{"transaction_id":"t5"}'),
        letter(6, "internal_error", key=b"c6"),
    )


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], "654321"),
        (["--oldest"], "123456"),
        (["--limit", "2"], "65"),
        (["--reason", "schema"], "51"),
        (["--reason", "schema", "--reason", "malformed"], "521"),
        (["--topic", "feedback"], "3"),
        (["--id", "t5"], "5"),
        (["--id", "c2"], "2"),
        (["--id", "t"], ""),
        (["--text", "NUMBER 4"], "4"),
        (["--since", "1h"], "654321"),
        (["--until", "1h"], ""),
        (["--since", "2020-01-01", "--until", "2021-01-01T12:00:00+02:00"], ""),
        (["--at", "2"], None),
        (["--reason", "whatever"], None),
        (["--since", "yesterday"], None),
    ],
)
def test_filters_say_which_are_listed(
    settings: Settings, some: list[str], filters: list[str], expected: str | None
) -> None:
    result = run(settings, "list", "--json", *filters)

    assert result.exit_code == (2 if expected is None else 0), result.output
    if expected is not None:
        assert "".join(item["offset"] for item in lines(result)) == expected


def test_places_and_times_choose_to_the_record(settings: Settings, some: list[str]) -> None:
    listed = {item["offset"]: item for item in lines(run(settings, "list", "--json"))}
    result = run(settings, "list", "--json", "--at", some[1], "--at", some[3], "--at", "9:1")
    assert [item["at"] for item in lines(result)] == [some[3], some[1]]
    at = listed["4"]["published_ms"]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at / 1000)) + f".{at % 1000:03d}"

    since = {item["at"] for item in lines(run(settings, "list", "--json", "--since", moment))}
    until = {item["at"] for item in lines(run(settings, "list", "--json", "--until", moment))}

    assert some[3] in since and some[0] in until
    assert since | until == set(some) and not since & until


def test_the_same_filters_say_which_are_sent(settings: Settings, some: list[str]) -> None:
    result = run(settings, "send", "--yes", "--id", "t1", "--id", "t5")

    assert result.exit_code == 0
    ids = sorted(json.loads(value)["transaction_id"] for value in values(settings))
    assert ids == ["t1", "t5"]
    assert run(settings, "send", "--yes", "--limit", "1", "--topic", "feedback").exit_code == 0
    assert len(values(settings, "feedback")) == 1


def test_the_table_shows_place_reason_and_state(settings: Settings, some: list[str]) -> None:
    run(settings, "send", "--yes", "--at", some[0])

    table = run(settings, "list").stdout

    assert "6 of 6 dead letters" in table
    for place in some:
        assert place in table
    assert "out_of_time" in table and "sent to" in table


def test_one_is_shown_whole_with_what_mends_it(settings: Settings) -> None:
    [place] = publish(settings, letter(5, value=b'{"a":"\xff"}', headers=[("trace", b"9")]))

    shown = run(settings, "show", place)

    assert shown.exit_code == 0
    for text in ("$.amount", "header trace", "schema_version", '{"a":"\\xff"}', "schema file"):
        assert text in shown.stdout
    [as_json] = lines(run(settings, "show", place, "--json"))
    assert as_json["headers"] == [["trace", "9"]]
    assert as_json["again"] is None


@pytest.mark.parametrize(
    ("place", "said"), [("0:7", "holds nothing, not 7"), ("9:0", "there is no partition 9")]
)
def test_a_place_that_holds_none_is_refused(settings: Settings, place: str, said: str) -> None:
    result = run(settings, "show", place)

    assert result.exit_code == 1
    assert said in str(result.exception)


def test_with_none_there_is_nothing_to_do(settings: Settings) -> None:
    assert "0 of 0 dead letters" in run(settings, "list").stdout
    result = run(settings, "send")
    assert (result.exit_code, "0 dead letters" in result.stdout) == (0, True)
    assert run(settings, "status").exit_code == 0

"""A worker whose settings or store do not fit its Kafka ends, and says why in one line; one whose
Kafka has forgotten its oldest records begins where the log does; one that is asked to end while it
starts does so."""

from contextlib import closing
from pathlib import Path
from signal import SIGTERM

import msgspec
import pytest
import redis
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from pipeline.commit import Outbox
from pipeline.settings import Settings
from pipeline.stored_rows import sealed
from pipeline.topics import DECISIONS, FEEDBACK, TRANSACTIONS
from stack.topic_setup import administration
from tests.integration.processes import START_SECONDS_MAX, Log, Processes, key_of, keyed, send
from tests.strategies import event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]


# Of another worker, without a record.
OUTBOX = msgspec.msgpack.encode(Outbox("other:0", []))


def last_words(settings: Settings, **changes: object) -> tuple[int | None, str]:
    """Run a worker to its end; give its exit code and the last line it said."""
    with Processes(settings, **changes) as processes:
        started = processes.start("worker").started
        wait_until(
            lambda: started.process.poll() is not None,
            "the worker has ended",
            seconds_max=START_SECONDS_MAX,
        )
        return started.process.returncode, started.log.read_text().splitlines()[-1]


@pytest.mark.parametrize("position", ["1000", "-1"])
def test_a_store_that_stands_outside_of_the_log_is_never_passed_over(
    settings: Settings, position: str
) -> None:
    with redis.from_url(settings.redis_url) as client:
        name = f"{TRANSACTIONS}:2"
        outbox = sealed(f"out:{name} of {position}", OUTBOX)
        client.mset({f"pos:{name}": position, f"out:{name}": outbox})
    code, line = last_words(settings)

    assert code == 1
    assert f"transactions[2] holds offsets 0 to 0, but the store stands at {position}" in line


def test_the_store_and_not_the_group_says_where_reading_begins(settings: Settings) -> None:
    card = key_of(2, settings)
    names = [f"t{number}" for number in range(12)]
    events = [event_bytes(transaction_id=name, card_id=card) for name in names]
    send(settings, TRANSACTIONS, [keyed(settings, card, event) for event in events])
    with administration(settings.kafka_servers) as admin:
        place = TopicPartition(TRANSACTIONS, 2)
        stored = {place: OffsetAndMetadata(len(names), "", None)}
        admin.alter_group_offsets(settings.consumer_group, stored)
    with redis.from_url(settings.redis_url) as client, Processes(settings) as processes:
        name = f"{TRANSACTIONS}:2"
        outbox = sealed(f"out:{name} of 3:0", OUTBOX)
        client.mset({f"pos:{name}": "3:0", f"out:{name}": outbox})
        processes.ready("worker")
        with closing(Log(settings, DECISIONS)) as log:
            wait_until(lambda: len(log.read()) >= len(names) - 3, "what is left is decided")

            assert [record.key.decode() for record in log.read()] == names[3:]


def test_a_number_of_partitions_that_is_not_the_topics_is_refused(settings: Settings) -> None:
    assert last_words(settings, partitions=7) == (
        1,
        "fraudstream: topic transactions has 4 partitions, but partitions is set to 7",
    )


def test_a_log_whose_beginning_is_gone_is_begun_where_it_starts(settings: Settings) -> None:
    place = TopicPartition(FEEDBACK, 0)
    send(settings, FEEDBACK, [(0, b"c1", b"old")] * 3)
    with administration(settings.kafka_servers) as admin:
        admin.delete_records({place: 3})
    card = key_of(0, settings)
    with (
        redis.from_url(settings.redis_url) as client,
        Processes(settings, maturity_days=0.0) as processes,
    ):
        processes.ready("worker")
        send(settings, TRANSACTIONS, [keyed(settings, card, event_bytes(card_id=card))])
        wait_until(lambda: client.exists("pos:feedback:0") > 0, "a decision has matured")
        stored = client.get("pos:feedback:0")

    assert stored == b"3:1:1:1"


def test_a_worker_that_finds_damage_ends_and_names_the_key(settings: Settings) -> None:
    with redis.from_url(settings.redis_url) as client:
        client.set("wm:2", "a while ago")
    code, line = last_words(settings)

    assert code == 1
    assert "wm:2 in the store is damaged: it holds 'a while ago', expected a whole number" in line


def hears_sigterm(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    fields = Path(f"/proc/{pid}/status").read_text(encoding="ascii").split()
    return bool(int(fields[fields.index("SigCgt:") + 1], 16) >> (SIGTERM - 1) & 1)


@pytest.mark.parametrize("name", ["worker", "trainer"])
def test_a_process_that_is_asked_to_end_while_it_starts_does_so(
    settings: Settings, name: str
) -> None:
    with Processes(settings) as processes:
        running = processes.start(name)
        wait_until(
            lambda: hears_sigterm(running.pid), "SIGTERM is heard", seconds_max=START_SECONDS_MAX
        )
        ending = running.end()

        assert (ending.exit_code, ending.seconds < 10) == (0, True), running.output

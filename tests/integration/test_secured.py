"""A Kafka and a Redis with TLS, passwords and least privileges: what works, and what is said."""

import asyncio
import base64
import json
import re
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from consumers.log_reader import read_topic
from consumers.outbox_publisher import OutboxPublisher
from consumers.published_before import landed_before
from pipeline.cli import main
from pipeline.commit import OutboxRecord
from pipeline.errors import SettingError
from pipeline.records import decode_decisions
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS, MODELS, TRAINING, TRANSACTIONS
from stack import async_clients, kafka_clients
from stack.check_command import findings
from stack.findings import Finding
from stack.kafka_address import Kafka, faust_connection
from stack.roles import ROLES
from tests.certificates import Authority
from tests.integration.processes import Processes
from tests.secured import GROUP, Secured
from tests.strategies import event_bytes
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def state(tmp_path: Path) -> dict[str, object]:
    """Give what keeps the processes of a test apart from those of others."""
    return {"state_dir": str(tmp_path)}


def records(secured: Secured, topic: str, role: str = "monitor") -> list[Any]:
    return list(read_topic(secured.kafka(role), topic))


def send_transactions(secured: Secured, *values: tuple[str, bytes]) -> None:
    kafka = secured.kafka("producer")
    with closing(kafka_clients.producer(kafka, enable_idempotence=True)) as producer:
        for key, value in values:
            producer.send(kafka.topic(TRANSACTIONS), value, key.encode()).get(30)


@dataclass(frozen=True, slots=True)
class Done:
    code: object
    out: str
    err: str

    @property
    def line(self) -> str:
        assert self.err.count("\n") == 1, self.err
        [line] = self.err.splitlines()
        return line


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run the console script's `main` in this process."""

    def run(settings: Settings, *words: str) -> Done:
        given = {item.name: getattr(settings, item.name) for item in fields(settings)}
        flags = [f"--{name.replace('_', '-')}={text}" for name, text in given.items() if text != ""]
        monkeypatch.setattr(sys, "argv", ["fraudstream", *words, *flags])
        try:
            main()
        except SystemExit as ended:
            return Done(ended.code, *capsys.readouterr())
        return Done(0, *capsys.readouterr())

    return run


def checked(settings: Settings, role: str = "worker") -> list[Finding]:
    return list(findings(settings, role))


def problems(settings: Settings, role: str = "worker") -> list[str]:
    found = checked(settings, role)
    return [f"{item.about}: {item.text}" for item in found if item.status == "problem"]


def test_every_role_finds_all_it_needs_and_no_problem(
    secured: Secured, state: dict[str, object]
) -> None:
    send_transactions(secured, ("c1", event_bytes(transaction_id="before", card_id="c1")))

    for role in ROLES:
        found = checked(secured.settings(role, **state), role)

        assert [item for item in found if item.status == "problem"] == [], role
        assert Finding("ok", "kafka", f"it takes us for User:{role}") in found
        if ROLES[role].commands:
            assert Finding("ok", "redis", f"user {role} may do what it needs") in found


@dataclass(frozen=True, slots=True)
class Mistake:
    """Settings that are wrong in one way, and what is said of it."""

    name: str
    change: Callable[[Secured, Path], dict[str, object]]
    said: str


def other_ca(secured: Secured, folder: Path) -> dict[str, object]:
    return {"kafka_ca_file": str(Authority(folder, "another").file)}


def other_name(secured: Secured, _: Path) -> dict[str, object]:
    return {"kafka_servers": f"localhost:{secured.kafka_port}"}


def other_password(secured: Secured, _: Path) -> dict[str, object]:
    return {"kafka_password_file": str(secured.secret("wrong", "not-s3cret"))}


def expired(secured: Secured, _: Path) -> dict[str, object]:
    found = {"kafka_security": "ssl", "kafka_username": "", "kafka_password_file": ""}
    return {**found, "kafka_servers": f"127.0.0.1:{secured.expired_port}"}


def no_certificate(secured: Secured, folder: Path) -> dict[str, object]:
    return {**expired(secured, folder), "kafka_servers": f"127.0.0.1:{secured.mtls_port}"}


def no_such_mechanism(*_: object) -> dict[str, object]:
    return {"kafka_sasl_mechanism": "SCRAM-SHA-256"}


MISTAKES = (
    Mistake("CA", other_ca, "was not issued by a CA that we know: kafka_ca_file must name"),
    Mistake("host name", other_name, "is not for the host name 'localhost'"),
    Mistake("password", other_password, "refuses the password of producer (SCRAM-SHA-512)"),
    Mistake("expired", expired, "the server's certificate has expired"),
    Mistake(
        "no certificate",
        no_certificate,
        "wants a certificate of ours, of a CA that it knows: see kafka_cert_file",
    ),
    Mistake("mechanism", no_such_mechanism, "does not take kafka_sasl_mechanism SCRAM-SHA-256"),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_what_is_wrong_with_a_connection_is_said_in_plain_words(
    mistake: Mistake,
    secured: Secured,
    state: dict[str, object],
    tmp_path: Path,
    command: Callable[..., Done],
) -> None:
    settings = secured.settings("producer", **state)
    settings = replace(settings, **mistake.change(secured, tmp_path))  # type: ignore[arg-type]
    kafka = Kafka.of(settings, settings.kafka_servers)

    [found] = problems(settings, "producer")
    published = command(settings, "publish", "--simulate", "--days=1", "--no-labels")

    assert mistake.said in found
    assert (published.code, published.line[:12]) == (1, "fraudstream:")
    assert mistake.said in published.line
    # The worker's first client of Kafka.
    with pytest.raises(SettingError) as refused:
        asyncio.run(OutboxPublisher(kafka).start())
    assert mistake.said in str(refused.value)
    assert "s3cret" not in f"{found} {published.err} {refused.value}"


REDIS_MISTAKES: dict[str, tuple[Callable[[Secured, Path], dict[str, object]], str]] = {
    "CA": (
        lambda _, folder: {"redis_ca_file": str(Authority(folder, "another").file)},
        "was not issued by a CA that we know: redis_ca_file must name",
    ),
    "host name": (
        lambda secured, _: {"redis_url": f"rediss://localhost:{secured.redis_port}/0"},
        "is not for the host name 'localhost'",
    ),
    "password": (
        lambda secured, _: {"redis_password_file": str(secured.secret("wrong", "not-s3cret"))},
        "refuses our name or password: see redis_username and redis_password_file",
    ),
    "permission": (
        lambda secured, _: {
            "redis_username": "console",
            "redis_password_file": str(secured.secret("console")),
        },
        "user console lacks the command set",
    ),
}


@pytest.mark.parametrize("name", REDIS_MISTAKES)
def test_what_is_wrong_with_redis_is_said_in_plain_words(
    name: str, secured: Secured, state: dict[str, object], tmp_path: Path
) -> None:
    change, said = REDIS_MISTAKES[name]
    settings = secured.settings("worker", **state)
    settings = replace(settings, **change(secured, tmp_path))  # type: ignore[arg-type]

    found = problems(settings)

    assert any(said in text for text in found), found
    assert all(text.startswith("redis") for text in found), found
    assert "s3cret" not in repr(found)


def test_a_permission_of_kafka_that_is_missing_is_named_and_ends_the_worker_with_one_line(
    secured: Secured, state: dict[str, object]
) -> None:
    settings = secured.settings("worker", **state)
    with (
        secured.without("worker", "fraud.training", "WRITE"),
        secured.without("worker", "fraud.models", "READ"),
        secured.without("worker", GROUP, "READ"),
        Processes(settings) as processes,
    ):
        worker = processes.start("worker")

        found = problems(settings)

        assert found == [
            "topic fraud.training: User:worker lacks the permission WRITE: "
            "grant it as docs/security.md says",
            "topic fraud.models: User:worker lacks the permission DESCRIBE, READ: "
            "grant it as docs/security.md says",
            f"group {GROUP}: User:worker lacks the permission READ: "
            "grant it as docs/security.md says",
        ]
        wait_until(lambda: worker.has_ended, "the worker ends", seconds_max=90)
        output = worker.output
    assert "Traceback" not in output
    [line] = output.splitlines()
    assert line == f"fraudstream: {found[0]}"


def test_a_group_that_is_not_allowed_ends_the_worker_with_one_line(
    secured: Secured, state: dict[str, object]
) -> None:
    with (
        secured.without("worker", GROUP, "READ"),
        Processes(secured.settings("worker", **state)) as processes,
    ):
        worker = processes.start("worker")
        wait_until(lambda: worker.has_ended, "the worker ends", seconds_max=90)
        output = worker.output
    assert output.splitlines() == [
        f"fraudstream: group {GROUP}: User:worker lacks the permission READ: "
        "grant it as docs/security.md says"
    ]


def test_a_certificate_of_ours_says_who_we_are(secured: Secured, state: dict[str, object]) -> None:
    certificate, key = secured.authority.issue("monitor")
    settings = secured.settings(
        "monitor",
        **state,
        kafka_security="ssl",
        kafka_username="",
        kafka_password_file="",
        kafka_servers=f"127.0.0.1:{secured.mtls_port}",
        kafka_cert_file=str(certificate),
        kafka_key_file=str(key),
    )
    kafka = Kafka.of(settings, settings.kafka_servers)

    assert problems(settings, "monitor") == []
    list(read_topic(kafka, DECISIONS))
    with pytest.raises(Exception, match="TopicAuthorization|not allowed|no topic"):
        list(read_topic(kafka, MODELS))


@pytest.mark.parametrize("mechanism", ["PLAIN", "OAUTHBEARER"])
def test_all_three_kinds_of_clients_speak_a_mechanism(
    mechanism: str, secured: Secured, state: dict[str, object]
) -> None:
    settings = secured.settings("worker", **state, kafka_sasl_mechanism=mechanism)
    if mechanism == "OAUTHBEARER":
        token = str(secured.secret("token", unsigned_token("worker")))
        settings = replace(settings, kafka_username="", kafka_password_file=token)
    kafka = Kafka.of(settings, settings.kafka_servers)

    list(read_topic(kafka, DECISIONS))
    asyncio.run(look_with_both(kafka))


async def look_with_both(kafka: Kafka) -> None:
    """Connect a bare client of aiokafka, and one with what Faust makes of its credentials."""
    given = credentials_to_aiokafka_auth(faust_connection(kafka)["broker_credentials"])
    by_faust = AIOKafkaConsumer(bootstrap_servers=str(kafka), **given)
    for consumer in (async_clients.async_consumer(kafka), by_faust):
        await consumer.start()
        assert "fraud.decisions" in await consumer.topics()
        await consumer.stop()


def unsigned_token(subject: str) -> str:
    """Give a token as the broker's validator for tests takes it."""
    claims = {"sub": subject, "iat": 1_700_000_000, "exp": 4_000_000_000}
    parts = ({"alg": "none"}, claims)
    texts = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts)
    return ".".join(text.rstrip("=") for text in texts) + "."


def test_one_transaction_and_its_label_go_all_the_way_under_least_privileges(
    secured: Secured, state: dict[str, object], command: Callable[..., Done]
) -> None:
    settings = secured.settings("worker", **state)
    with Processes(settings) as processes:
        trainer = {"kafka_username": "trainer", "redis_username": "trainer"}
        secret = str(secured.secret("trainer"))
        trainer |= {"kafka_password_file": secret, "redis_password_file": secret}
        started = [processes.start("worker"), processes.start("trainer", **trainer)]
        send_transactions(
            secured,
            ("c7", event_bytes(transaction_id="whole-way", card_id="c7")),
            ("c7", b"{no json"),
        )
        for process in started:
            process.wait_until_ready()
        wait_until(lambda: "whole-way" in decided(secured), "the transaction is decided")

        # Where a decision stands is known a moment after it is published.
        console = secured.settings("console", **state)
        wait_until(
            lambda: command(console, "label", "whole-way", "fraud").code == 0, "it can be labelled"
        )
        wait_until(lambda: bool(records(secured, TRAINING)), "the label is joined")
        wait_until(lambda: bool(records(secured, MODELS, "admin")), "a version is published")
        [letter] = records(secured, DEAD_LETTERS)
        outputs = [process.output for process in started]

    headers = dict(letter.headers)
    # Kafka's name is for the clients: whatever is kept says ours.
    assert headers["fraud.errors.topic"] == b"transactions"
    assert {record.topic for record in records(secured, DECISIONS)} == {"fraud.decisions"}
    with secured.administration() as admin:
        assert admin.describe_groups([GROUP])[GROUP]["error"] is None
    for output in outputs:
        assert "s3cret" not in output
        assert "Traceback" not in output


def decided(secured: Secured) -> dict[str, Any]:
    values = [record.value for record in records(secured, DECISIONS)]
    return {item.transaction_id: item for item in decode_decisions(values) if item is not None}


def test_what_a_backfill_had_published_is_found_under_the_name_of_its_topic(
    secured: Secured,
) -> None:
    kafka = secured.kafka("backfill")
    sent = [OutboxRecord(DECISIONS, 1, b"k%d" % n, b"published before %d" % n) for n in range(3)]

    published, found = asyncio.run(published_and_found(kafka, sent[:2], sent))

    assert found == [*published, None]


async def published_and_found(
    kafka: Kafka, sent: list[OutboxRecord], wanted: list[OutboxRecord]
) -> tuple[list[int], list[int | None]]:
    publisher = OutboxPublisher(kafka)
    await publisher.start()
    published = await (await publisher.publish(sent))
    await publisher.stop()
    return published, await landed_before(kafka, wanted, topics=(DECISIONS,))


# The last, since it finds what the test before it has sent.
def test_what_does_not_fit_the_schema_is_named_by_field_and_place_and_ends_with_one(
    secured: Secured, state: dict[str, object], command: Callable[..., Done]
) -> None:
    secret_value = "4111111111111111"
    send_transactions(secured, ("c1", event_bytes(transaction_id=secret_value, card_id="c1")))
    send_transactions(secured, ("c2", event_bytes(transaction_id="t9", card_id="c1")))

    done = command(secured.settings("worker", **state), "check", "--json")

    found = [msgspec.json.decode(line) for line in done.out.splitlines()]
    said = [item["text"] for item in found if item["about"] == "records of payments.auth"]
    assert done.code == 1, done.out
    assert {item["status"] for item in found} >= {"ok", "problem"}
    assert re.match(r"\d of the last \d+ do not fit schema card", said[0])
    assert any(
        re.match(
            r"1: card_number at \$\.transaction_id: expected a token, got a card number "
            r"\(as at payments\.auth\[\d\] offset \d+\)",
            text,
        )
        for text in said
    )
    assert secret_value not in done.out

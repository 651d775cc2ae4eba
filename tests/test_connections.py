"""What connects to Kafka and Redis is made in one place, and says nothing of secrets."""

import logging
import socket
import ssl
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import aiokafka.errors
import click
import pytest
from kafka.errors import KafkaConnectionError
from redis.exceptions import NoPermissionError

from pipeline import cli
from pipeline.errors import SettingError
from pipeline.settings import Settings
from stack.kafka_address import Kafka, async_connection, kafka_of, sync_connection
from stack.plain_errors import said
from stack.reaching import tls_problem, unreachable
from stack.redis_clients import RedisServer, redis_connection
from stack.secret_files import read_secret, tls_context
from tests.certificates import Authority

ROOT = Path(__file__).parent.parent
SHELLS = ("consumers", "producers", "stack")


def secret(path: Path, text: str = "s3cret\n", mode: int = 0o600) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)


def test_a_password_is_read_without_its_line_end_and_spaces_are_its_own(tmp_path: Path) -> None:
    assert read_secret("x", secret(tmp_path / "p", " two words \r\n")) == " two words "


@pytest.mark.parametrize("text", ["", "\n", "one\ntwo\n"])
def test_a_password_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"redis_password_file: .*/p must hold one line"):
        read_secret("redis_password_file", secret(tmp_path / "p", text))


def test_a_password_that_is_not_there_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"kafka_password_file: .*no cannot be read: No such"):
        read_secret("kafka_password_file", str(tmp_path / "no"))


def test_a_password_that_others_may_read_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read_secret("kafka_password_file", secret(tmp_path / "mine"))
        assert caplog.messages == []

        read_secret("kafka_password_file", secret(tmp_path / "open", mode=0o644))

    [line] = caplog.messages
    assert line == f"kafka_password_file: others may read {tmp_path}/open (chmod 600)"
    assert "s3cret" not in line


def test_certificates_that_do_not_fit_are_named_by_their_settings(tmp_path: Path) -> None:
    one, other = Authority(tmp_path / "a", "one"), Authority(tmp_path / "b", "other")
    (certificate, _), (_, key) = one.issue("me"), other.issue("me")

    with pytest.raises(SettingError, match="kafka_cert_file and kafka_key_file: .* mismatch"):
        tls_context("kafka", ca_file="", cert_file=str(certificate), key_file=str(key))
    with pytest.raises(SettingError, match="redis_ca_file: .* cannot be read"):
        tls_context("redis", ca_file=secret(tmp_path / "p"), cert_file="", key_file="")
    with pytest.raises(SettingError, match="redis_ca_file: .* cannot be read: No such file"):
        tls_context("redis", ca_file=str(tmp_path / "no"), cert_file="", key_file="")


def test_every_client_gets_the_same_and_always_checks_the_host_name(tmp_path: Path) -> None:
    settings = Settings(
        kafka_security="sasl_ssl",
        kafka_username="me",
        kafka_password_file=secret(tmp_path / "p"),
        kafka_ca_file=str(Authority(tmp_path, "ca").file),
    )
    kafka = Kafka.of(settings, "a:1,b:2")

    given, given_async = sync_connection(kafka), async_connection(kafka)

    assert given.pop("bootstrap_servers") == ["a:1", "b:2"]
    assert given_async.pop("bootstrap_servers") == "a:1,b:2"
    assert given == given_async
    assert given.pop("ssl_context").check_hostname is True
    assert given == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "me",
        "sasl_plain_password": "s3cret",
    }
    assert "s3cret" not in f"{kafka!r} {kafka.security!r} {settings!r}"


def test_a_plain_kafka_is_text_and_needs_nothing_more() -> None:
    assert sync_connection("a:1") == {"bootstrap_servers": ["a:1"]}
    assert kafka_of("a:1").topic("decisions") == "decisions"


def test_redis_checks_the_host_name_and_takes_its_password_from_a_file(tmp_path: Path) -> None:
    ca = str(Authority(tmp_path, "ca").file)
    settings = Settings(
        redis_url="rediss://host:1/0",
        redis_username="me",
        redis_password_file=secret(tmp_path / "p"),
        redis_ca_file=ca,
    )

    given = redis_connection(RedisServer.of(settings, settings.redis_url))

    assert given == {
        "url": "rediss://host:1/0",
        "username": "me",
        "password": "s3cret",
        "ssl_check_hostname": True,
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": ca,
        "ssl_certfile": None,
        "ssl_keyfile": None,
    }


def test_clients_are_made_in_one_place_alone() -> None:
    made = ("KafkaConsumer(", "KafkaProducer(", "KafkaAdminClient(", "Redis(", "Redis.from_url(")
    home = {"kafka_clients.py", "async_clients.py", "redis_clients.py", "redis_client.py"}
    home |= {"store_server.py"}
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in SHELLS
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(name in line for name in made)
        and path.name not in home
        and not line.startswith("class ")
    ]

    assert found == []


def test_a_server_without_tls_and_one_that_is_not_there_are_told_apart() -> None:
    context = ssl.create_default_context()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            with closing(server.accept()[0]) as connection:
                connection.sendall(b"-ERR unknown command\r\n")
                connection.recv(1_000)

        thread = threading.Thread(target=answer)
        thread.start()
        text = tls_problem("127.0.0.1", port, context, "kafka")
        thread.join()

    assert text == f"127.0.0.1:{port}: the server does not speak TLS on this port"
    assert unreachable(f"127.0.0.1:{port}") == f"127.0.0.1:{port}: nobody listens there"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            KafkaConnectionError("Unable to bootstrap"),
            "Kafka cannot be used: KafkaConnectionError: Unable to bootstrap",
        ),
        (
            aiokafka.errors.KafkaConnectionError("Unable to bootstrap from\n[('x', 1)]"),
            "Kafka cannot be used: KafkaConnectionError: Unable to bootstrap from [('x', 1)]",
        ),
        (
            aiokafka.errors.TopicAuthorizationFailedError("fraud.models"),
            "Kafka: an operation on a topic is not allowed to us: `fraudstream check` says which "
            "permission is missing ([Error 29] TopicAuthorizationFailedError: fraud.models)",
        ),
        (
            NoPermissionError("no permissions to run the 'set' command"),
            "Redis: a command is not allowed to us: `fraudstream check` says which permission is "
            "missing (no permissions to run the 'set' command)",
        ),
    ],
)
def test_what_a_client_raises_ends_a_command_with_one_line(
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "cli", click.Command("failing", callback=fail))
    monkeypatch.setattr(sys, "argv", ["fraudstream"])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 1
    assert capsys.readouterr().err == f"fraudstream: {line}\n"


def test_our_own_mistakes_keep_their_trace() -> None:
    assert said(AssertionError("no")) is None
    assert said(ValueError("no")) is None

"""A Kafka and a Redis as those of others are: TLS, passwords, certificates, least privileges."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)
from redis import Redis

from pipeline.keys import init_keys
from pipeline.settings import Settings
from stack import kafka_clients
from stack.broker import prepare_broker
from stack.broker_security import ADMIN, BrokerSecurity
from stack.kafka_address import Kafka
from stack.launch import Launch
from stack.processes import Started, identify, start, stop
from stack.roles import ROLES, Role
from stack.store_server import prepare_store
from stack.topic_setup import create_topics
from tests.certificates import Authority
from tests.tls_front import tls_front
from tests.waiting import wait_until

logger = logging.getLogger(__name__)

READY_SECONDS_MAX = 60.0
GROUP = "fraud-eu"


def password(name: str) -> str:
    """Give a user's password."""
    return f"{name}-s3cret"


@dataclass(frozen=True, slots=True)
class Secured:
    """Both servers, and what connects to them; files are in `folder`."""

    folder: Path
    authority: Authority
    kafka_port: int
    mtls_port: int
    expired_port: int
    redis_port: int

    def settings(self, role: str, **changes: object) -> Settings:
        """Give the settings of a process of a role; the state directory is to be changed."""
        secret, ca = str(self.secret(role)), str(self.authority.file)
        found = Settings(
            kafka_servers=f"127.0.0.1:{self.kafka_port}",
            kafka_security="sasl_ssl",
            kafka_username=role,
            kafka_password_file=secret,
            kafka_ca_file=ca,
            redis_url=f"rediss://127.0.0.1:{self.redis_port}/0",
            redis_username=role,
            redis_password_file=secret,
            redis_ca_file=ca,
            topic_prefix="fraud.",
            topic_names="transactions=payments.auth",
            consumer_group=GROUP,
            keys_dir=str(self.folder / "keys"),
            partitions=2,
        )
        return replace(found, **changes)  # type: ignore[arg-type]

    def kafka(self, role: str) -> Kafka:
        """Give the Kafka as a role sees it."""
        settings = self.settings(role)
        return Kafka.of(settings, settings.kafka_servers)

    def secret(self, name: str, text: str | None = None) -> Path:
        """Write a password to a file that its owner alone may read."""
        path = self.folder / f"{name}.secret"
        path.touch(mode=0o600)
        path.write_text(f"{text or password(name)}\n", encoding="utf-8")
        return path

    @contextmanager
    def without(self, role: str, topic: str, operation: str) -> Iterator[None]:
        """Take a permission away for the length of the block."""
        lacking = [acl for acl in acls(role) if acl.resource_pattern.resource_name == topic]
        lacking = [acl for acl in lacking if acl.operation == ACLOperation[operation]]
        assert lacking
        with self.administration() as admin:
            admin.delete_acls(lacking)
            wait_until(lambda: not admin.describe_acls(lacking[0])[0], "the permission is gone")
            try:
                yield
            finally:
                admin.create_acls(lacking)

    @contextmanager
    def administration(self) -> Iterator[KafkaAdminClient]:
        """Connect as a user who may do everything."""
        admin = kafka_clients.admin(self.kafka(ADMIN))
        try:
            yield admin
        finally:
            admin.close()


def acls(name: str) -> list[ACL]:
    """Give the permissions of a role, as Kafka's."""
    role, names = (
        ROLES[name],
        Settings(topic_prefix="fraud.", topic_names="transactions=payments.auth").names_of_topics,
    )
    wanted = [
        (ResourceType.TOPIC, names.physical(topic), operation)
        for topic, operations in role.topics.items()
        for operation in operations
    ]
    wanted += [(ResourceType.GROUP, GROUP, "READ")] if role.group else []
    wanted += [(ResourceType.CLUSTER, "kafka-cluster", operation) for operation in role.cluster]
    return [
        ACL(
            f"User:{name}",
            "*",
            ACLOperation[operation],
            ACLPermissionType.ALLOW,
            ResourcePattern(kind, resource),
        )
        for kind, resource, operation in wanted
    ]


@contextmanager
def secured_servers(folder: Path, *, is_new: bool = False) -> Iterator[Secured]:
    """Run both, with users of every role, and with topics and keys unless they are new."""
    authority = Authority(folder / "authority", "authority")
    certificate = authority.issue("broker")
    expired = authority.issue("expired", valid=timedelta(hours=-1))
    security = BrokerSecurity(
        keystore=_joined(folder / "broker.pem", certificate),
        expired_keystore=_joined(folder / "expired.pem", expired),
        truststore=_joined(folder / "trusted.pem", (authority.file,)),
        users={name: password(name) for name in (*ROLES, ADMIN)},
    )
    broker = prepare_broker(folder / "kafka", {}, logger.info, security)
    store = prepare_store(folder / "redis", logger.info)
    socket_path = Path(unquote(urlsplit(store.address).path))
    with _running(broker), _running(store), tls_front(socket_path, certificate) as redis_port:
        ports = (broker.ports["broker"], broker.ports["mtls"], broker.ports["expired"])
        secured = Secured(folder, authority, *ports, redis_port)
        if not is_new:
            init_keys(folder / "keys")
            create_topics(secured.kafka(ADMIN), secured.settings(ADMIN))
        with secured.administration() as admin:
            admin.create_acls([acl for name in ROLES for acl in acls(name)])
        with Redis(unix_socket_path=str(socket_path)) as client:
            for name, role in ROLES.items():
                client.execute_command("ACL", "SETUSER", name, *_rules(name, role))
            client.execute_command("ACL", "SETUSER", "default", "off")
        yield secured


def _rules(name: str, role: Role) -> list[str]:
    return ["on", f">{password(name)}", *role.redis_rules]


def _joined(path: Path, parts: tuple[Path, ...]) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in reversed(parts)))
    return path


@contextmanager
def _running(launch: Launch) -> Iterator[Started]:
    started = start(launch.command, folder=launch.folder, log=launch.log, attached=True)
    try:

        def is_ready() -> bool:
            assert started.failure() is None, started.failure()
            return launch.is_ready()

        wait_until(is_ready, f"{launch.name} is ready", seconds_max=READY_SECONDS_MAX)
        yield started
    finally:
        found = identify(started.process.pid)
        stop([found] if found else [])
        started.release()

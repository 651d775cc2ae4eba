"""The part of `fraudstream check` that looks at Kafka: topics, permissions, clock."""

import time
from collections.abc import Iterator
from typing import Any

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import (
    ClusterAuthorizationFailedError,
    CoordinatorNotAvailableError,
    KafkaError,
    NotCoordinatorError,
    for_code,
)

from pipeline.connection_settings import PLAINTEXT
from pipeline.errors import FraudstreamError, SettingError
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, MODELS, TOPICS, Topic
from stack import kafka_clients
from stack.check_certificates import check_files, check_reach
from stack.findings import Finding, ok, problem, warning
from stack.kafka_address import Kafka, host_and_port, kafka_of
from stack.plain_errors import said
from stack.roles import DESCRIBE, Role

CONNECT_MS_MAX = 10_000
COORDINATOR_SECONDS_MAX, RETRY_SECONDS = 20.0, 0.2
# A record's time is that of the broker: events may come from so far ahead, and no further.
SKEW_WARNING_MS = 2_000
# ListOffsets: the newest record by its time.
NEWEST = -3

MISSING, NOT_ALLOWED = "UnknownTopicOrPartitionError", "TopicAuthorizationFailedError"


def check_kafka(kafka: Kafka, settings: Settings, role: Role) -> Iterator[Finding]:
    """Look at everything that a role needs of Kafka."""
    security = kafka.security
    try:
        context = security.context() if security.has_tls else None
        secrets = {
            "kafka_password_file": security.password_file,
            "kafka_key_file": security.key_file,
        }
        yield from check_files("kafka", security.cert_file, secrets)
        reached = False
        for server in kafka.split(","):
            found = list(check_reach("kafka", *host_and_port(server), context))
            yield from found
            reached = reached or all(item.status != "problem" for item in found)
        if not reached:
            return
        admin = kafka_clients.admin(kafka, bootstrap_timeout_ms=CONNECT_MS_MAX)
    except (KafkaError, FraudstreamError, OSError) as error:
        yield problem("kafka", said(error) or str(error))
        return
    try:
        yield ok(
            "kafka", f"it takes us for {security.principal}" if security.has_sasl else "answers"
        )
        yield from _check_all(admin, kafka, settings, role)
    except KafkaError as error:
        yield problem("kafka", said(error) or str(error))
    finally:
        admin.close()


def demand_permissions(servers: str, settings: Settings, role: Role) -> None:
    """Refuse to start where a permission is missing: the clients would wait for it, silently."""
    kafka = kafka_of(servers)
    if kafka.security.security == PLAINTEXT:
        return
    admin = kafka_clients.admin(kafka, bootstrap_timeout_ms=CONNECT_MS_MAX)
    try:
        names = [kafka.topic(name) for name in role.topics]
        for item in admin.describe_topics(names):
            finding = _allowed(kafka, item, role)
            if finding is not None and finding.status == "problem":
                raise SettingError(f"{finding.about}: {finding.text}")
        if role.group:
            finding = _group(admin, kafka, settings.consumer_group)
            if finding.status == "problem":
                raise SettingError(f"{finding.about}: {finding.text}")
    finally:
        admin.close()


def _allowed(kafka: Kafka, item: dict[str, Any], role: Role) -> Finding | None:
    """Say whether a role may do what it needs with a topic; `None` where there is no such topic."""
    wanted = role.topics[kafka.names.logical(item["name"])]
    error = for_code(item["error_code"]).__name__
    if error == MISSING:
        return None
    if error == NOT_ALLOWED:
        return _not_allowed(kafka, f"topic {item['name']}", [DESCRIBE, *wanted])
    return _permissions(kafka, item["name"], item, wanted)


def _check_all(
    admin: KafkaAdminClient, kafka: Kafka, settings: Settings, role: Role
) -> Iterator[Finding]:
    named = {kafka.topic(topic.name): topic for topic in TOPICS if topic.name in role.topics}
    found: dict[str, Any] = {item["name"]: item for item in admin.describe_topics(list(named))}
    there = {}
    for name, topic in named.items():
        finding = _allowed(kafka, found[name], role)
        if finding is None:
            yield problem(f"topic {name}", "it does not exist: make it with `fraudstream topics`")
            continue
        yield finding
        if found[name]["partitions"]:
            there[name] = topic
            yield _partitions(name, topic, len(found[name]["partitions"]), settings)
    yield from _check_configs(admin, there)
    if role.group:
        yield _group(admin, kafka, settings.consumer_group)
    yield from _clock(admin, kafka, there)


def _permissions(
    kafka: Kafka, name: str, found: dict[str, Any], wanted: tuple[str, ...]
) -> Finding:
    lacking = [item for item in wanted if item not in found["authorized_operations"]]
    if lacking:
        return _not_allowed(kafka, f"topic {name}", lacking)
    return ok(f"topic {name}", f"{', '.join(wanted)} allowed")


def _not_allowed(kafka: Kafka, what: str, lacking: list[str]) -> Finding:
    operations = ", ".join(dict.fromkeys(lacking))
    return problem(
        what,
        f"{kafka.security.principal} lacks the permission {operations}: "
        "grant it as docs/security.md says",
    )


def _partitions(name: str, topic: Topic, count: int, settings: Settings) -> Finding:
    about, wanted = f"topic {name}", topic.partitions or settings.partitions
    if count == wanted:
        return ok(about, f"partitions: {count}")
    if topic.partitions:
        return problem(about, f"it has {count} partitions, and must have {wanted}")
    return problem(
        about,
        f"it has {count} partitions, and partitions is set to {settings.partitions}: all topics "
        "that are keyed need one number of partitions, since a label follows its transaction",
    )


def _check_configs(admin: KafkaAdminClient, named: dict[str, Topic]) -> Iterator[Finding]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in named]
    if not resources:
        return
    found = admin.describe_configs(resources, config_filter="all").get("topic", {})
    for name, topic in named.items():
        values = {key: item["value"] for key, item in found.get(name, {}).items()}
        about = f"topic {name}"
        if not values:
            yield warning(
                about,
                "its settings may not be looked at (DESCRIBE_CONFIGS): check them as role admin",
            )
            continue
        wrong = list(_wrong_configs(topic, values))
        yield from (problem(about, text) for text in wrong)
        if not wrong:
            yield ok(about, "its settings are as they should be")


def _wrong_configs(topic: Topic, values: dict[str, str]) -> Iterator[str]:
    mend = "set it with kafka-configs --alter"
    if values["message.timestamp.type"] != "LogAppendTime":
        yield (
            "message.timestamp.type is not LogAppendTime: records of old events would be deleted "
            f"as soon as they come; {mend}"
        )
    wanted = int(topic.config.get("max.message.bytes", 0))
    if int(values["max.message.bytes"]) < wanted:
        yield f"max.message.bytes is {values['max.message.bytes']}, needed are {wanted}; {mend}"
    if topic.name == MODELS and "compact" not in values["cleanup.policy"]:
        yield f"cleanup.policy is not compact: old versions would never go; {mend}"
    if topic.name != MODELS and "compact" in values["cleanup.policy"]:
        yield f"cleanup.policy is compact: of two records of one key one would go; {mend}"
    if topic.config.get("retention.ms") == "-1" and values["retention.ms"] != "-1":
        yield f"retention.ms is not -1: the log that the models are a fold of would be cut; {mend}"


def _group(admin: KafkaAdminClient, kafka: Kafka, group: str) -> Finding:
    about = f"group {group}"
    try:
        found = _described(admin, group)
    except KafkaError as error:
        if "Authorization" not in type(error).__name__:
            raise
        return _not_allowed(kafka, about, ["READ"])
    said_of_it = found["error"] or ""
    if "GroupAuthorization" in said_of_it:
        return _not_allowed(kafka, about, ["READ"])
    if said_of_it:
        # Of one that no worker has joined yet Kafka does not say what is allowed.
        return ok(about, "it may be looked at, and nobody is in it yet")
    if "READ" not in (found["authorized_operations"] or ()):
        return _not_allowed(kafka, about, ["READ"])
    return ok(about, "READ allowed")


def _described(admin: KafkaAdminClient, group: str) -> dict[str, Any]:
    """Describe a group; the first who asks a new cluster makes its coordinator."""
    deadline = time.monotonic() + COORDINATOR_SECONDS_MAX
    while True:
        try:
            found: dict[str, Any] = admin.describe_groups([group])[group]
            return found
        except (CoordinatorNotAvailableError, NotCoordinatorError):
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _clock(admin: KafkaAdminClient, kafka: Kafka, named: dict[str, Topic]) -> Iterator[Finding]:
    """Compare the clocks: exactly where the cluster may be asked, else by the newest record."""
    try:
        asked_ms = time.time_ns() // 1_000_000
        quorum = admin.describe_metadata_quorum()["topics"][0]["partitions"][0]
        now_ms = time.time_ns() // 1_000_000
        [leader] = [
            item for item in quorum["current_voters"] if item["replica_id"] == quorum["leader_id"]
        ]
        skew = leader["last_caught_up_timestamp"] - (asked_ms + now_ms) // 2
    except (ClusterAuthorizationFailedError, KeyError, IndexError, ValueError):
        name = kafka.topic(DECISIONS)
        if name not in named:
            return
        partitions = admin.describe_topics([name])[0]["partitions"]
        places = {TopicPartition(name, item["partition_index"]): NEWEST for item in partitions}
        newest = [item.timestamp for item in admin.list_partition_offsets(places).values()]
        # A record from the future says that its broker's clock is ahead; that it is behind, none.
        skew = max(0, max(newest) - time.time_ns() // 1_000_000)
    yield clock_finding("kafka", skew)


def clock_finding(of: str, skew_ms: int) -> Finding:
    """Say what a server's clock differs by from ours; positive where it is ahead."""
    about = f"clock of {of}"
    if abs(skew_ms) > SKEW_WARNING_MS:
        side = "ahead of" if skew_ms > 0 else "behind"
        return warning(about, f"{abs(skew_ms) / 1000:.1f} s {side} ours: let NTP set both")
    return ok(about, f"no more than {SKEW_WARNING_MS // 1000} s from ours")

"""Creates the topics of `pipeline.topics`, on the embedded Kafka or on any other.

Topics that exist are left as they are, so it may run before every start. Only another number of
partitions is refused, since it would send a card's records elsewhere than its history.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from pipeline.errors import StackError
from pipeline.settings import Settings
from pipeline.topics import TOPICS, Topic
from stack import kafka_clients

CONNECT_MS_MAX = 30_000
# Kafka answers a creation before every partition has its leader.
TOPICS_READY_MS_MAX = 30_000


def create_topics(kafka_servers: str, settings: Settings) -> list[str]:
    """Create the topics that are missing, wait until all can be used, and name the created."""
    named = {settings.names_of_topics.physical(topic.name): topic for topic in TOPICS}
    with administration(kafka_servers) as admin:
        existing = [name for name in admin.list_topics() if name in named]
        # Before anything is made: topics that are not ours to change decide the number.
        _check_partitions(_counts(admin, existing), named, settings)
        missing = {name: topic for name, topic in named.items() if name not in existing}
        if missing:
            _create(admin, missing, settings)
        admin.wait_for_topics(list(named), timeout_ms=TOPICS_READY_MS_MAX)
        _check_partitions(_counts(admin, list(named)), named, settings)
    return list(missing)


def _counts(admin: KafkaAdminClient, names: list[str]) -> dict[str, int]:
    found = admin.describe_topics(names) if names else []
    return {topic["name"]: len(topic["partitions"]) for topic in found}


@contextmanager
def administration(kafka_servers: str) -> Iterator[KafkaAdminClient]:
    """Connect as administrator; Kafka's errors leave as `StackError`."""
    try:
        admin = kafka_clients.admin(kafka_servers, bootstrap_timeout_ms=CONNECT_MS_MAX)
        try:
            yield admin
        finally:
            admin.close()
    except KafkaError as error:
        raise StackError(f"kafka at {kafka_servers}: {error}") from error


def _create(admin: KafkaAdminClient, topics: dict[str, Topic], settings: Settings) -> None:
    wanted = {
        name: {
            "num_partitions": topic.partitions or settings.partitions,
            "configs": topic.config,
        }
        for name, topic in topics.items()
    }
    try:
        admin.create_topics(wanted)
    except TopicAlreadyExistsError:
        # Somebody else creates them at this moment; the wait below shows whether all came.
        return


def _check_partitions(counts: dict[str, int], named: dict[str, Topic], settings: Settings) -> None:
    for name, count in counts.items():
        fixed = named[name].partitions
        if count == (fixed or settings.partitions):
            continue
        if fixed:
            raise StackError(f"topic {name} has {count} partitions, and must have {fixed}")
        raise StackError(
            f"topic {name} has {count} partitions, the settings ask for {settings.partitions}: "
            f"set partitions to {count}, or start with another state_dir"
        )

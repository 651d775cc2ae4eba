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

CONNECT_MS_MAX = 30_000
# Kafka answers a creation before every partition has its leader.
TOPICS_READY_MS_MAX = 30_000


def create_topics(kafka_servers: str, settings: Settings) -> list[str]:
    """Create the topics that are missing, wait until all can be used, and name the created."""
    with administration(kafka_servers) as admin:
        existing = set(admin.list_topics())
        missing = [topic for topic in TOPICS if topic.name not in existing]
        if missing:
            _create(admin, missing, settings)
        names = [topic.name for topic in TOPICS]
        admin.wait_for_topics(names, timeout_ms=TOPICS_READY_MS_MAX)
        counts = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(names)}
    _check_partitions(counts, settings)
    return [topic.name for topic in missing]


@contextmanager
def administration(kafka_servers: str) -> Iterator[KafkaAdminClient]:
    """Connect as administrator; Kafka's errors leave as `StackError`."""
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=kafka_servers.split(","), bootstrap_timeout_ms=CONNECT_MS_MAX
        )
        try:
            yield admin
        finally:
            admin.close()
    except KafkaError as error:
        raise StackError(f"kafka at {kafka_servers}: {error}") from error


def _create(admin: KafkaAdminClient, topics: list[Topic], settings: Settings) -> None:
    wanted = {
        topic.name: {
            "num_partitions": topic.partitions or settings.partitions,
            "configs": topic.config,
        }
        for topic in topics
    }
    try:
        admin.create_topics(wanted)
    except TopicAlreadyExistsError:
        # Somebody else creates them at this moment; the wait below shows whether all came.
        return


def _check_partitions(counts: dict[str, int], settings: Settings) -> None:
    for topic in TOPICS:
        wanted = topic.partitions or settings.partitions
        if counts[topic.name] != wanted:
            raise StackError(
                f"topic {topic.name} has {counts[topic.name]} partitions, the settings ask for "
                f"{wanted}: set partitions to {counts[topic.name]}, or start with another state_dir"
            )

"""Makes the servers of a test session as good as new for the next test.

Starting them takes seconds; emptying them takes a fraction of one.
"""

import redis
from kafka.admin import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError

from pipeline.keys import init_keys
from pipeline.settings import Settings
from stack.servers import Endpoints
from stack.topic_setup import administration, create_topics
from tests.waiting import wait_until


def reset(endpoints: Endpoints, settings: Settings) -> None:
    """Delete every topic, group and key, create our topics and the keys of these settings.

    The members of a group must have left, or soon leave: the wait for them is bounded.
    """
    init_keys(settings.keys_path)
    with redis.from_url(endpoints.redis_url) as client:
        client.flushall()
    with administration(endpoints.kafka_servers) as admin:
        wait_until(lambda: _no_groups(admin), "all consumer groups are gone")
        wait_until(lambda: _no_topics(admin), "all topics are gone")
    wait_until(lambda: _created(endpoints, settings), "all topics are created anew")


def _no_groups(admin: KafkaAdminClient) -> bool:
    groups = [group["group_id"] for group in admin.list_groups()]
    return not groups or all(result == "OK" for result in admin.delete_groups(groups).values())


def _no_topics(admin: KafkaAdminClient) -> bool:
    ours = [name for name in admin.list_topics() if not name.startswith("__")]
    if ours:
        # What was deleted a moment ago may still be listed.
        admin.delete_topics(ours, raise_errors=False)
    return not ours


def _created(endpoints: Endpoints, settings: Settings) -> bool:
    try:
        create_topics(endpoints.kafka_servers, settings)
    except (TopicAlreadyExistsError, UnknownTopicOrPartitionError):
        return False
    return True

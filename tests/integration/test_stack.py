"""The embedded servers: up, down, found again, and never left behind."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from pipeline.errors import StackError
from pipeline.settings import Settings
from pipeline.topics import TOPICS, TRAINING, TRANSACTIONS
from stack.jars import ROOTS, locked_jars
from stack.servers import LOCK, RECORD, Endpoints, Stack, find_endpoints
from stack.topic_setup import create_topics
from tests.resetting import reset
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

HAS_PROMETHEUS = shutil.which("prometheus") is not None
SERVERS = ["kafka", "prometheus", "redis"] if HAS_PROMETHEUS else ["kafka", "redis"]

CRASHING_PARENT = """
import sys, time
from pipeline.settings import Settings
from stack.servers import Stack
Stack(Settings(state_dir=sys.argv[1]), attached=True, say=lambda line: None).up()
print("up", flush=True)
time.sleep(600)
"""


def quiet(line: str) -> None:
    """Take a line of progress and show it to nobody."""


def pids(state_dir: Path) -> list[int]:
    record = json.loads((state_dir / RECORD).read_text())
    return [server["identity"]["pid"] for server in record["servers"].values()]


def processes_of(state_dir: Path) -> list[psutil.Process]:
    """Find every process that runs in a folder of the state directory, guards included."""
    return [
        process
        for process in psutil.process_iter()
        if folder_of(process).startswith(f"{state_dir}{os.sep}")
    ]


def folder_of(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""


def state_dir_of(stack: Endpoints) -> Path:
    return Path(stack.redis_url.removeprefix("unix://")).parent.parent


@pytest.fixture
def detached(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(Settings(state_dir=str(tmp_path)), attached=False, say=quiet)
    yield stack
    stack.down()


def test_a_second_up_changes_nothing(detached: Stack, tmp_path: Path) -> None:
    first = detached.up()
    started = pids(tmp_path)

    other = Stack(Settings(state_dir=str(tmp_path)), attached=False, say=quiet)
    assert other.up() == first
    assert pids(tmp_path) == started


def test_data_and_addresses_survive_down_and_up(detached: Stack) -> None:
    first = detached.up()
    with KafkaProducer(bootstrap_servers=first.kafka_servers) as producer:
        producer.send(TRAINING, b"kept").get(timeout=30)
    with redis.from_url(first.redis_url) as client:
        client.set("key", "kept")

    assert detached.down() == SERVERS
    second = detached.up()

    assert second == first
    with KafkaConsumer(
        TRAINING, bootstrap_servers=second.kafka_servers, auto_offset_reset="earliest"
    ) as consumer:
        assert next(consumer).value == b"kept"
    with redis.from_url(second.redis_url) as client:
        assert client.get("key") == b"kept"


def test_a_killed_server_is_started_again_with_its_data(detached: Stack, tmp_path: Path) -> None:
    endpoints = detached.up()
    with redis.from_url(endpoints.redis_url) as client:
        client.set("key", "kept")
    for pid in pids(tmp_path):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: find_endpoints(tmp_path) is None, "the servers are seen to be dead")

    again = detached.up()

    with redis.from_url(again.redis_url) as client:
        assert client.get("key") == b"kept"


def test_down_leaves_no_process_and_says_so(detached: Stack, tmp_path: Path) -> None:
    detached.up()

    assert detached.down() == SERVERS
    assert processes_of(tmp_path) == []
    assert find_endpoints(tmp_path) is None
    assert not any(server.running for server in detached.status())
    assert detached.down() == []


def test_status_describes_each_server(stack: Endpoints) -> None:
    state_dir = state_dir_of(stack)
    here = Stack(Settings(state_dir=str(state_dir)), attached=True, say=quiet)

    kafka, store, *_ = here.status()

    assert (kafka.name, kafka.running, kafka.address) == ("kafka", True, stack.kafka_servers)
    assert kafka.version == "4.1.0"
    assert kafka.memory_bytes > 100_000_000
    assert (store.name, store.running, store.address) == ("redis", True, stack.redis_url)
    assert tuple(int(part) for part in store.version.split(".")) >= (6, 2)
    assert find_endpoints(state_dir) == stack


def test_a_killed_parent_leaves_no_orphan(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", CRASHING_PARENT, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == b"up\n"
        assert len(processes_of(tmp_path)) == 2 * len(SERVERS), "each server has its guard"

        parent.kill()
        parent.wait()

        wait_until(lambda: processes_of(tmp_path) == [], "no server and no guard is left")


def test_an_attached_stack_leaves_servers_that_it_did_not_start(
    detached: Stack, tmp_path: Path
) -> None:
    endpoints = detached.up()

    with Stack(Settings(state_dir=str(tmp_path)), attached=True, say=quiet) as found:
        assert found == endpoints

    assert all(server.running for server in detached.status())


def test_a_process_that_inherited_an_id_is_neither_trusted_nor_killed(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "600"])
    server = {
        "identity": {"pid": other.pid, "started": "before"},
        "address": "127.0.0.1:1",
        "version": "4.1.0",
    }
    (tmp_path / RECORD).write_text(json.dumps({"servers": {"kafka": server, "redis": server}}))

    assert find_endpoints(tmp_path) is None
    Stack(Settings(state_dir=str(tmp_path)), attached=False, say=quiet).down()
    assert other.poll() is None
    other.kill()
    other.wait()


def test_half_an_up_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "appendonly.aof").write_bytes(b"not a log of Redis")
    (tmp_path / "redis" / "appendonlydir").write_bytes(b"not its folder")

    with pytest.raises(StackError, match="redis"):
        Stack(Settings(state_dir=str(tmp_path)), attached=False, say=quiet).up()

    assert processes_of(tmp_path) == []
    assert find_endpoints(tmp_path) is None


def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("in the way")

    with pytest.raises(StackError, match=r"state_dir .*file cannot be written: File exists"):
        Stack(Settings(state_dir=str(path)), attached=False, say=quiet).up()


def test_a_state_directory_at_work_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    with (tmp_path / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = Stack(
            Settings(state_dir=str(tmp_path)), attached=False, say=quiet, lock_seconds_max=0.2
        )

        with pytest.raises(StackError, match="is busy"):
            second.up()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{")

    with pytest.raises(StackError, match=r"stack\.json cannot be read"):
        find_endpoints(tmp_path)


def test_a_long_state_directory_still_gets_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("a folder, deep=1 'quoted' é " * 4) / "state"

    with Stack(Settings(state_dir=str(deep)), attached=True, say=quiet) as endpoints:
        with redis.from_url(endpoints.redis_url) as client:
            assert client.ping()
        assert client.connection_pool.connection_kwargs["path"].count("/") == 3


def test_redis_keeps_all_it_acknowledges_and_hears_no_network(stack: Endpoints) -> None:
    with redis.from_url(stack.redis_url) as client:
        config = client.config_get("*")

    assert config["port"] == "0"
    assert (config["appendonly"], config["appendfsync"]) == ("yes", "always")
    assert (config["aof-load-truncated"], config["no-appendfsync-on-rewrite"]) == ("yes", "no")
    assert config["maxmemory-policy"] == "noeviction"


@pytest.mark.skipif(not HAS_PROMETHEUS, reason="prometheus is not installed here")
def test_prometheus_finds_the_targets_that_processes_write(stack: Endpoints) -> None:
    assert stack.prometheus_url is not None
    host = stack.prometheus_url.removeprefix("http://")
    folder = state_dir_of(stack) / "metrics"
    partial = folder / "worker-1.partial"
    partial.write_text(json.dumps([{"targets": [host], "labels": {"job": "worker"}}]))
    partial.rename(folder / "worker-1.json")

    def is_up() -> bool:
        with urllib.request.urlopen(f"{stack.prometheus_url}/api/v1/targets") as answer:
            targets = json.load(answer)["data"]["activeTargets"]
        return [(each["labels"]["job"], each["health"]) for each in targets] == [("worker", "up")]

    wait_until(is_up, "the target is scraped")


@pytest.mark.skipif(not HAS_PROMETHEUS, reason="prometheus is not installed here")
def test_prometheus_has_the_rules_of_the_dashboard(stack: Endpoints) -> None:
    with urllib.request.urlopen(f"{stack.prometheus_url}/api/v1/rules") as answer:
        groups = json.load(answer)["data"]["groups"]
    names = {rule["name"] for group in groups for rule in group["rules"]}

    assert {"fraud:score_psi:mean15m", "ScoreDrift", "MonitoringGap"} <= names


def test_topics_have_the_settings_of_the_table(settings: Settings) -> None:
    with KafkaAdminClient(bootstrap_servers=settings.kafka_servers) as admin:
        found = {topic["name"]: topic for topic in admin.describe_topics()}
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in TOPICS]
        configs = admin.describe_configs(resources)["topic"]

    for topic in TOPICS:
        partitions = topic.partitions or settings.partitions
        assert len(found[topic.name]["partitions"]) == partitions
        values = {name: configs[topic.name][name]["value"] for name in topic.config}
        assert values == topic.config


def test_a_topic_with_another_number_of_partitions_is_refused(settings: Settings) -> None:
    assert create_topics(settings.kafka_servers, settings) == []

    with pytest.raises(StackError, match="has 4 partitions, the settings ask for 8"):
        create_topics(settings.kafka_servers, replace(settings, partitions=8))


def test_a_reset_empties_everything(stack: Endpoints, settings: Settings) -> None:
    with KafkaProducer(bootstrap_servers=stack.kafka_servers) as producer:
        producer.send(TRANSACTIONS, b"old").get(timeout=30)
    with KafkaConsumer(
        TRANSACTIONS,
        bootstrap_servers=stack.kafka_servers,
        group_id="readers",
        auto_offset_reset="earliest",
    ) as consumer:
        assert next(consumer).value == b"old"
    with redis.from_url(stack.redis_url) as client:
        client.set("old", "1")

        reset(stack, replace(settings, partitions=2))

        assert client.dbsize() == 0
    with KafkaAdminClient(bootstrap_servers=stack.kafka_servers) as admin:
        assert admin.list_groups() == []
        [topic] = admin.describe_topics([TRANSACTIONS])
        assert len(topic["partitions"]) == 2
        latest = {TopicPartition(TRANSACTIONS, partition): -1 for partition in range(2)}
        assert [end.offset for end in admin.list_partition_offsets(latest).values()] == [0, 0]


def test_the_list_of_jars_holds_what_it_was_made_from() -> None:
    coordinates = {jar.coordinate for jar in locked_jars()}

    assert set(ROOTS) <= coordinates
    assert {jar.coordinate for jar in locked_jars() if len(jar.sha256) != 64} == set()
    clients = [name for name in coordinates if ":kafka-clients:" in name]
    assert clients == ["org.apache.kafka:kafka-clients:4.1.0"]

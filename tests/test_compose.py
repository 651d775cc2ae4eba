"""The containers' file says what the code knows: valid, known settings, known commands, loopback.

`compose-spec.json` is the Compose Specification's own schema (Apache License 2.0), unchanged, from
the module compose-spec/compose-go 2.9.0. Where docker has its compose plugin, that judges as well.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dashboards.build import SOURCE
from pipeline.cli import COMMANDS
from pipeline.settings import ENVIRONMENT_PREFIX, load_settings
from pipeline.topics import SNAPSHOT_BYTES_MAX
from stack.jars import KAFKA_VERSION

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"
SCHEMA = Path(__file__).with_name("compose-spec.json")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    services = compose["services"].items()
    return {name: service for name, service in services if service.get("build")}


def test_it_fits_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))

    jsonschema.Draft7Validator(schema).validate(compose)


def test_docker_accepts_it() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False).returncode:
        pytest.skip("docker with its compose plugin is not installed here")

    done = subprocess.run([docker, "compose", "-f", COMPOSE, "config", "--quiet"], check=False)

    assert done.returncode == 0


def test_every_setting_is_known_and_accepted(ours: dict[str, dict[str, Any]]) -> None:
    for service in ours.values():
        environment = {name: str(value) for name, value in service["environment"].items()}

        assert all(name.startswith(ENVIRONMENT_PREFIX) for name in environment)
        assert load_settings({}, environment).kafka_servers == "kafka:9092"


def test_every_command_exists(ours: dict[str, dict[str, Any]]) -> None:
    assert set(ours) == {"keys", "topics", "worker", "trainer", "monitor"}
    assert {service["command"][0] for service in ours.values()} <= set(COMMANDS)


def test_prometheus_asks_each_service_at_its_port(ours: dict[str, dict[str, Any]]) -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    asked = {
        discovery["names"][0]: discovery["port"]
        for job in scraped["scrape_configs"]
        for discovery in job["dns_sd_configs"]
    }

    served = {
        name: int(service["environment"]["FRAUD_METRICS_PORT"])
        for name, service in ours.items()
        if "FRAUD_METRICS_PORT" in service["environment"]
    }
    assert asked == served
    for name, port in served.items():
        assert f"127.0.0.1:{port}/ready" in ours[name]["healthcheck"]["test"][-1]


def mounts(compose: dict[str, Any], name: str) -> dict[str, Path]:
    """Give the files and folders of this checkout that a container reads, by their place in it."""
    volumes = [volume.split(":") for volume in compose["services"][name]["volumes"]]
    ours = [volume for volume in volumes if volume[0].startswith("./")]
    assert all(mode == ["ro"] for _, _, *mode in ours)
    return {inside: ROOT / outside for outside, inside, *_ in ours}


def test_prometheus_loads_the_rules(compose: dict[str, Any]) -> None:
    found = mounts(compose, "prometheus")
    configuration = yaml.safe_load(found["/etc/prometheus/prometheus.yml"].read_text())

    assert configuration["rule_files"] == ["rules.yml"]
    assert yaml.safe_load(found["/etc/prometheus/rules.yml"].read_text())["groups"]


def test_grafana_shows_the_dashboard_on_the_prometheus_beside_it(compose: dict[str, Any]) -> None:
    found = mounts(compose, "grafana")
    provisioning = found["/etc/grafana/provisioning"]
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    [provider] = yaml.safe_load((provisioning / "dashboards/fraudstream.yml").read_text())[
        "providers"
    ]
    shown = found["/etc/fraudstream/fraudstream.json"].read_text()
    environment = compose["services"]["grafana"]["environment"]

    assert source["url"] == "http://prometheus:9090"
    assert source["uid"] == SOURCE.uid
    assert f'"uid": "{source["uid"]}"' in shown
    assert provider["options"]["path"] == "/etc/fraudstream"
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in (
        f"{provider['options']['path']}/fraudstream.json"
    )
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_no_image_is_taken_as_it_happens_to_be(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if not service.get("build"):
            assert not service["image"].endswith(":latest"), name
            assert ":" in service["image"], name


def test_nothing_is_published_beyond_loopback(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_is_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert "no-new-privileges:true" in service["security_opt"], name
        # Kafka's image writes its configuration into itself when it starts.
        assert service.get("read_only", False) or name == "kafka", name
        assert "healthcheck" in service or name in ("keys", "topics"), name


def test_every_service_sees_the_keys_that_it_needs_and_no_other(
    ours: dict[str, dict[str, Any]],
) -> None:
    seen = {
        name: {
            (inside.removeprefix("/keys/"), *mode)
            for volume in service.get("volumes", [])
            for _, inside, *mode in [volume.split(":")]
            if inside.startswith("/keys")
        }
        for name, service in ours.items()
    }

    assert seen == {
        "keys": {("labels",), ("private",), ("public",)},
        "worker": {("labels", "ro"), ("public", "ro")},
        "trainer": {("private", "ro"), ("public", "ro")},
        "monitor": set(),
        "topics": set(),
    }


def test_kafka_is_the_one_of_the_embedded_stack(compose: dict[str, Any]) -> None:
    kafka = compose["services"]["kafka"]

    assert kafka["image"].endswith(f":{KAFKA_VERSION}")
    assert int(kafka["environment"]["KAFKA_MESSAGE_MAX_BYTES"]) > SNAPSHOT_BYTES_MAX
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_image_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if line.startswith("USER ")] == ["USER fraudstream"]
    assert 'ENTRYPOINT ["fraudstream"]' in lines

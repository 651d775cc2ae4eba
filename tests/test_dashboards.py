"""The committed dashboard is the one of the table, and rules, runbook and tests know each other.

`promtool` judges the rules and tries the alerts; without it those proofs are not made. That each
expression has an answer is shown in `integration/test_dashboard_data.py`.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.build import dashboard
from dashboards.observe import all_expressions, selectors
from dashboards.screens import SCREENS, expressions
from pipeline.metric_table import METRICS
from tests.proofs import program

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "dashboards"
RULES = FOLDER / "rules.yml"
RULE_TESTS = sorted((ROOT / "tests" / "rules").glob("*.yml"))
OURS = {metric.name: metric for metric in METRICS}
# Prometheus makes these by itself.
PROMETHEUS_OWN = {"up", "ALERTS"}
# Added by the scrape, or to the buckets of a histogram.
EVERYWHERE = {"job", "instance", "le"}


def rules(kind: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def base_name(selector: str) -> str:
    name = selector.partition("{")[0]
    stem = re.sub(r"_(bucket|sum|count)$", "", name)
    return stem if stem in OURS and OURS[stem].kind == "histogram" else name


def panels() -> Iterator[dict[str, Any]]:
    shown = json.loads((FOLDER / "fraudstream.json").read_text(encoding="utf-8"))["panels"]
    return (panel for panel in shown if panel["type"] != "row")


def test_the_committed_dashboard_is_made_from_the_table() -> None:
    assert (FOLDER / "fraudstream.json").read_text(encoding="utf-8") == dashboard(), (
        "run `make dashboards`"
    )


def test_it_shows_every_expression_of_the_table_and_no_other() -> None:
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]

    assert shown == [text for _, _, text in expressions()]


def test_the_committed_table_of_values_is_of_these_expressions() -> None:
    lines = (FOLDER / "EXPRESSIONS.md").read_text(encoding="utf-8").splitlines()
    cells = [line.replace("\\|", "\0").split(" | ") for line in lines if line.startswith("| ")]
    listed = [(row[0][2:], row[1].strip("`").replace("\0", "|")) for row in cells[2:]]

    assert listed == [(place, " ".join(text.split())) for place, text in all_expressions()], (
        "run `make dashboards`"
    )


@pytest.mark.parametrize(("place", "expression"), all_expressions())
def test_every_metric_and_label_that_is_asked_for_exists(place: str, expression: str) -> None:
    recorded = {rule["record"] for rule in rules("record")}
    for selector in selectors(expression):
        name, labels = base_name(selector), set(re.findall(r"(\w+)(?:=|!)", selector))

        assert name in OURS or name in recorded | PROMETHEUS_OWN, selector
        assert name not in OURS or labels <= {*OURS[name].labels, *EVERYWHERE}, selector


def test_every_metric_is_shown_or_computed_with() -> None:
    used = {base_name(text) for _, whole in all_expressions() for text in selectors(whole)}

    # When the latest event was, says the watermark of each partition.
    assert set(OURS) - used == {"fraud_last_event_timestamp_seconds"}


def test_every_panel_has_a_meaning_and_its_place() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "fraudstream-prometheus"
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers) == sum(len(screen.panels) for screen in SCREENS)


def test_every_alert_has_its_section_in_the_runbook_and_the_reverse() -> None:
    sections = re.findall(r"^## (\w+)$", (FOLDER / "RUNBOOK.md").read_text(), re.MULTILINE)
    alerts = {rule["alert"]: rule["annotations"] for rule in rules("alert")}

    assert sorted(sections) == sorted(alerts)
    for name, annotations in alerts.items():
        assert annotations["runbook"] == f"dashboards/RUNBOOK.md#{name.lower()}"
        assert annotations["summary"]


def test_every_alert_is_tried_where_it_fires_and_where_it_does_not() -> None:
    tried: dict[str, set[bool]] = {rule["alert"]: set() for rule in rules("alert")}
    for path in RULE_TESTS:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for test in group["alert_rule_test"]:
                tried[test["alertname"]].add(bool(test["exp_alerts"]))
    # One of the three processes is always missing in its test, until all three are down.
    tried["ProcessDown"].add(False)

    assert {name for name, outcomes in tried.items() if outcomes != {True, False}} == set()


def test_promtool_accepts_the_rules() -> None:
    done = run("check", "rules", str(RULES))

    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration_of_the_containers(tmp_path: Path) -> None:
    for path in (RULES, ROOT / "deploy" / "prometheus.yml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = run("check", "config", str(tmp_path / "prometheus.yml"))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_not_before(path: Path) -> None:
    done = run("test", "rules", str(path))

    assert done.returncode == 0, done.stdout + done.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, timeout=300, check=False
    )

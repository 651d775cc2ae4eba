"""Runs the whole system and asks Prometheus for everything that the dashboard and the rules ask.

`python -m dashboards.observe` starts Kafka, Redis, Prometheus, a worker, the trainer and the
monitor on this machine, lets traffic through in which everything happens (`traffic.py`), and gives
the value of every expression at two moments: `dashboards/EXPRESSIONS.md`. A test does the same and
fails on what is empty or never moves.
"""

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import yaml

from dashboards.people import People, wait_for
from dashboards.screens import expressions
from dashboards.traffic import DAYS, DRIFT_DAY, PAUSE_DAY, Traffic
from pipeline.errors import StackError
from pipeline.schema import load_schema
from pipeline.settings import Settings
from stack.servers import Stack
from stack.services import services

RULES = Path(__file__).with_name("rules.yml")
SERVICES = ("worker", "trainer", "monitor")
EVENTS_A_SECOND = 2_500.0
# More labels than the run has, so that the counts of the window go on growing.
QUALITY_WINDOW_EVENTS = 100_000
SNAPSHOT_INTERVAL_SECONDS = 0.5
DRAIN_SECONDS_MAX = 240.0
# The embedded Prometheus scrapes every two seconds and computes its rules every two seconds.
QUIET_SECONDS = 5.0
POLL_SECONDS = 0.5
ANSWER_SECONDS_MAX = 10
SERIES_SHOWN = 3
SELECTOR = re.compile(r"\b((?:fraud|up)[a-z0-9_:]*)(\{[^}]*\})?(?!\w*\()")

Answer = dict[str, float]
"""The finite values of an expression by the text of their labels."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression, where it is used, and what it was at the two moments.

    `read` has what it reads, each metric with its matchers, as it was at the second moment.
    """

    place: str
    expression: str
    first: Answer
    second: Answer
    read: dict[str, Answer]

    @property
    def is_alert(self) -> bool:
        """Whether it is the condition of an alert, which is empty as long as all is well."""
        return self.place.startswith("alert ")


def all_expressions() -> list[tuple[str, str]]:
    """Give every expression of the dashboard and the rules with its place."""
    shown = [(f"{screen}: {panel}", text) for screen, panel, text in expressions()]
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    kinds = [(rule, "record" if "record" in rule else "alert") for rule in rules]
    return shown + [(f"{kind} {rule[kind]}", rule["expr"]) for rule, kind in kinds]


def selectors(expression: str) -> list[str]:
    """Give the metrics that an expression reads, with their matchers.

    >>> selectors('sum(increase(fraud_labels_total{source="analyst"}[1h])) / fraud:x:rate5m')
    ['fraud_labels_total{source="analyst"}', 'fraud:x:rate5m']
    """
    return [name + matchers for name, matchers in SELECTOR.findall(expression)]


class Prometheus:
    """Asks one Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, expression: str, at: float | None = None) -> Answer:
        """Give the finite values of an expression at a moment, or now."""
        given = {"query": expression} | ({} if at is None else {"time": f"{at:.3f}"})
        address = f"{self._url}/api/v1/query?{urllib.parse.urlencode(given)}"
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS_MAX) as answer:
            result = json.load(answer)["data"]["result"]
        values = {_labels(series["metric"]): float(series["value"][1]) for series in result}
        return {labels: value for labels, value in values.items() if isfinite(value)}

    def number(self, expression: str) -> float | None:
        """Give the one value of an expression, if there is one."""
        return next(iter(self.ask(expression).values()), None)


def _labels(metric: dict[str, str]) -> str:
    # Who serves a metric is known from its name; what is summed by process has no other label.
    hidden = {"__name__"} | ({"instance", "job"} if "instance" in metric else set())
    return " ".join(text for name, text in sorted(metric.items()) if name not in hidden)


def observe(state_dir: Path, say: Callable[[str], None]) -> list[Asked]:
    """Run everything once, and give every expression at two moments of the run."""
    settings = replace(
        Settings(),
        state_dir=str(state_dir),
        partitions=2,
        quality_window_events=QUALITY_WINDOW_EVENTS,
        snapshot_interval_seconds=SNAPSHOT_INTERVAL_SECONDS,
        rules=str(state_dir / "rules.toml"),
        breaker_events_min=3,
    )
    people = People(settings)
    people.write_rules()
    with ExitStack() as running:
        endpoints = running.enter_context(Stack(settings, attached=True, say=say))
        if endpoints.prometheus_url is None:
            raise StackError("prometheus is not installed: nothing can be asked")
        running.enter_context(services(SERVICES, settings, endpoints, say))
        prometheus = Prometheus(endpoints.prometheus_url)
        settings = replace(settings, kafka_servers=endpoints.kafka_servers)
        traffic = running.enter_context(
            Traffic(settings, load_schema(settings.schema), rate=EVENTS_A_SECOND)
        )
        say(f"published: the days before {PAUSE_DAY}")
        _wait(traffic.pauses.is_set)
        first = _moment(prometheus)
        people.mistake_and_mend_rules(lambda name: prometheus.number(f"sum({name})") or 0.0)
        people.act(settings.kafka_servers)
        say(f"published: the days after, with drift from day {DRIFT_DAY} on")
        traffic.go_on()
        _wait(lambda: not traffic.is_running)
        people.freeze(settings.kafka_servers)
        second = _moment(prometheus)
        asked = zip(all_expressions(), first, second, strict=True)
        return [
            Asked(place, text, one, other, {each: prometheus.ask(each) for each in selectors(text)})
            for (place, text), one, other in asked
        ]


def _moment(prometheus: Prometheus) -> list[Answer]:
    """Wait until all that was published has arrived everywhere, and ask for everything."""
    still_since, before = time.monotonic(), None
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while time.monotonic() - still_since < QUIET_SECONDS:
        if time.monotonic() > deadline:
            raise StackError(f"the stream did not come to rest in {DRAIN_SECONDS_MAX:.0f} s")
        now = [prometheus.number(f"sum({name})") for name in _PROGRESS]
        if now != before or None in now:
            still_since, before = time.monotonic(), now
        time.sleep(POLL_SECONDS)
    at = time.time()
    return [prometheus.ask(text, at) for _, text in all_expressions()]


_PROGRESS = (
    "fraud_events_total",
    "fraud_observed_decisions_total",
    "fraud_examples_learned_total",
    "fraud_judged_events_total",
)


def _wait(holds: Callable[[], bool]) -> None:
    wait_for(holds, "publishing", DRAIN_SECONDS_MAX)


def table(asked: Sequence[Asked]) -> str:
    """Give the expressions and their values as Markdown."""
    lines = [
        "# Every expression at two moments of a run\n",
        "Made by `make dashboards` on a real Kafka, Redis and Prometheus. Simulated card payments "
        f"with labels 7 days later: the first moment is day {PAUSE_DAY}, the second the end, day "
        f"{DAYS}. On day {DRIFT_DAY} customers begin to spend twice as much, and a tenth of the "
        "cards falls into other hands. An alert is empty as long as it has no reason to fire. Of "
        f"more than {SERIES_SHOWN} series the first ones are shown.\n",
        "| where | expression | moment 1 | moment 2 |",
        "| --- | --- | --- | --- |",
        *_rows(asked),
    ]
    return "\n".join(lines) + "\n"


def _rows(asked: Iterable[Asked]) -> Iterator[str]:
    for item in asked:
        text = " ".join(item.expression.split()).replace("|", "\\|")
        yield f"| {item.place} | `{text}` | {_shown(item.first)} | {_shown(item.second)} |"


def _shown(answer: Answer) -> str:
    if not answer:
        return "(empty)"
    first = list(answer.items())[:SERIES_SHOWN]
    shown = ", ".join(f"{labels} {value:,.6g}".strip() for labels, value in first)
    more = len(answer) - len(first)
    return f"{shown}, and {more} more" if more else shown


if __name__ == "__main__":
    with TemporaryDirectory(prefix="fraudstream-") as folder:
        click.echo(table(observe(Path(folder), lambda line: click.echo(line, err=True))), nl=False)

"""Rules beside the model of a running worker: watched, acting, changed under way, and broken."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from consumers.rules_command import stats
from consumers.verify_command import verify
from pipeline.records import DecisionRecord, decode_decisions, decode_examples
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, FEEDBACK, TRAINING, TRANSACTIONS
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, Running, key_of, keyed, read, send
from tests.resetting import reset
from tests.strategies import MONDAY_MS, event_bytes, label_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RULE = """
[[rule]]
code = "RULE_LARGE"
action = "decline"
state = "{state}"
when = ["amount >= 100"]
"""
NOTICED_SECONDS_MAX = 5.0
EVENTS = 6


@dataclass
class Story:
    """One life of a worker, and what it decided under each file of rules."""

    settings: Settings
    path: Path
    decided: dict[str, list[DecisionRecord]] = field(default_factory=dict)
    noticed_seconds: dict[str, float] = field(default_factory=dict)
    output: str = ""
    verified: dict[str, object] = field(default_factory=dict)
    verified_with_another: dict[str, object] = field(default_factory=dict)
    stats: list[dict[str, object]] = field(default_factory=list)
    example_rules: dict[str, list[str]] = field(default_factory=dict)

    def write(self, text: str) -> None:
        """Put a file into place at once, as an editor that renames does."""
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, self.path)

    def change(self, part: str, text: str, worker: Running, metric: str) -> None:
        """Change the file and wait until the worker says so."""
        before, changed_at = worker.total(metric), time.monotonic()
        self.write(text)
        wait_until(lambda: worker.total(metric) > before, f"{metric} moves")
        self.noticed_seconds[part] = time.monotonic() - changed_at

    def decide(self, part: str) -> None:
        """Publish events of a new card, every second one large, and wait for the decisions."""
        card = key_of(0, self.settings, part)
        names = [f"{part}-{number}" for number in range(EVENTS)]
        sent = [
            event_bytes(
                transaction_id=name, card_id=card, terminal_id=f"m-{part}",
                event_time=MONDAY_MS + number, amount="250.00" if number % 2 else "9.50",
            )
            for number, name in enumerate(names)
        ]  # fmt: skip
        send(self.settings, TRANSACTIONS, [keyed(self.settings, card, value) for value in sent])
        wanted = {name.encode() for name in names}
        with closing(Log(self.settings, DECISIONS)) as log:
            wait_until(lambda: wanted <= {r.key for r in log.read()}, f"{part} is decided")
            found = decode_decisions(r.value for r in log.read() if r.key in wanted)
            self.decided[part] = [item for item in found if item is not None]

    def label(self, part: str) -> None:
        labels = [
            keyed(self.settings, item.keys["card"], label_bytes(
                label_id=f"l-{item.transaction_id}", transaction_id=item.transaction_id,
                card_id=item.keys["card"], label_time=item.event_time + 1,
                verdict="fraud" if number != 1 else "genuine",
            ))
            for number, item in enumerate(self.decided[part])
        ]  # fmt: skip
        send(self.settings, FEEDBACK, labels)
        wait_until(lambda: len(read(self.settings, TRAINING)) >= EVENTS, "labels are joined")
        self.example_rules = {
            item.transaction_id: item.rules
            for item in decode_examples(r.value for r in read(self.settings, TRAINING))
            if item is not None
        }


def live(story: Story, processes: Processes) -> None:
    [worker] = processes.ready("worker")
    story.decide("watched")
    taken, refused = "fraud_rules_files_taken_total", "fraud_rules_files_refused_total"
    story.change("acting", RULE.format(state="act"), worker, taken)
    story.decide("acting")
    story.change("broken", RULE.format(state="act").replace(">=", ">"), worker, refused)
    assert worker.total("fraud_rules_file_broken") == 1
    story.decide("broken")
    story.change("mended", RULE.format(state="act") + "# mended\n", worker, taken)
    assert worker.total("fraud_rules_file_broken") == 0
    story.label("acting")
    worker.end()
    story.output = worker.output
    story.verified = answer(story, story.path)
    other = story.path.with_name("other.toml")
    other.write_text(RULE.format(state="act").replace("100", "200"))
    story.verified_with_another = answer(story, other)
    said = CliRunner().invoke(stats, ["--json"], obj=story.settings)
    story.stats = [json.loads(line) for line in said.stdout.splitlines()]


def answer(story: Story, path: Path) -> dict[str, object]:
    settings = replace(story.settings, rules=str(path))
    found: dict[str, object] = json.loads(
        CliRunner().invoke(verify, ["--all", "--json"], obj=settings).stdout
    )
    return found


@pytest.fixture(scope="module")
def story(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("rules")
    path = folder / "rules.toml"
    path.write_text(RULE.format(state="shadow"))
    settings = Settings(
        state_dir=str(folder),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        partitions=1,
        challengers="none",
        rules=str(path),
        label_linger_seconds=0.0,
    )
    reset(stack, settings)
    with Processes(settings) as processes:
        story = Story(settings, path)
        live(story, processes)
        yield story


def test_a_running_worker_notices_a_changed_file_within_five_seconds(story: Story) -> None:
    assert set(story.noticed_seconds) == {"acting", "broken", "mended"}
    assert max(story.noticed_seconds.values()) < NOTICED_SECONDS_MAX


def test_a_watching_rule_differs_from_an_acting_one_in_the_action_alone(story: Story) -> None:
    watched, acting = story.decided["watched"], story.decided["acting"]

    assert [item.rules for item in watched] == [[], ["RULE_LARGE"]] * 3
    assert [item.rules for item in acting] == [item.rules for item in watched]
    assert [item.action for item in watched] == ["approve"] * EVENTS
    assert [item.action for item in acting] == ["approve", "decline"] * 3
    assert [item.score for item in acting] == [item.score for item in watched]
    assert [item.reasons for item in acting] == [
        [*([("RULE_LARGE", 1.0)] if item.rules else []), *item.reasons] for item in watched
    ]
    assert {item.rules_version for item in watched} != {item.rules_version for item in acting}


def test_a_broken_file_keeps_the_rules_before_and_says_where_it_is_wrong(story: Story) -> None:
    acting, broken = story.decided["acting"], story.decided["broken"]

    assert {item.rules_version for item in broken} == {item.rules_version for item in acting}
    assert [item.action for item in broken] == ["approve", "decline"] * 3
    lines = [line for line in story.output.splitlines() if "rules refused" in line]
    assert len(lines) == 1
    assert f"rules {story.path}: rule 1 (RULE_LARGE): a condition is a name, one of" in lines[0]
    assert "(got 'amount > 100')" in lines[0]


def test_verification_recomputes_rules_and_says_which_are_of_another_file(story: Story) -> None:
    assert (story.verified["equal"], story.verified["different"]) == (2 * EVENTS, 0)
    [why] = story.verified["not_recomputed"]  # type: ignore[misc]
    assert "of another file (--rules names it)" in why
    assert (story.verified_with_another["equal"], story.verified_with_another["different"]) == (
        0,
        0,
    )


def test_labels_bring_each_rule_its_precision_and_money(story: Story) -> None:
    assert story.example_rules == {
        item.transaction_id: item.rules for item in story.decided["acting"]
    }
    [row] = story.stats
    assert (row["rule"], row["state"], row["hits"]) == ("RULE_LARGE", "act", 9)
    assert (row["labelled"], row["frauds"]) == (3, 2)
    assert row["precision"] == pytest.approx(2 / 3)
    assert (row["money_caught"], row["money_of_false_alarms"]) == (500.0, 250.0)


def test_nothing_but_rules_tells_a_watched_decision_from_one_without(story: Story) -> None:
    plain = [msgspec.structs.replace(item, rules=[], rules_version="") for item in
             story.decided["watched"]]  # fmt: skip

    assert all(not code.startswith("RULE_") for item in plain for code, _ in item.reasons)
    assert {item.action for item in plain} == {"approve"}

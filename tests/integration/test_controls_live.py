"""Operators' words on running workers: how soon they hold, what a restart keeps, and `verify`.

The story is told once, with two workers and a trainer; the tests look at what it left.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from signal import SIGKILL
from typing import Any

import msgspec
import pytest
from click import Command
from click.testing import CliRunner, Result

from consumers import controls_command as said
from consumers.model_topic import read_models
from consumers.models_command import models
from consumers.verify_command import verify
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.records import DecisionRecord, decode_decisions, encode_record
from pipeline.settings import Settings
from pipeline.signing import ModelVerifier
from pipeline.topics import CONTROLS, DECISIONS, FEEDBACK, TRAINING, TRANSACTIONS
from stack.servers import Endpoints
from tests.integration.processes import Log, Processes, Running, key_of, keyed, read, send
from tests.resetting import reset
from tests.strategies import MONDAY_MS, event_bytes, label_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EFFECTIVE_SECONDS_MAX = 5.0
BLOCKED, ALLOWED, EXPIRING = "m-bad", "m-ours", "m-today"
BREAKER_MIN, BREAKER_EVENTS = 10, 40

Holds = Callable[[DecisionRecord], bool]


@dataclass
class Story:
    """What was said and decided; every transaction would be declined by the policy."""

    settings: Settings
    sent: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    after: dict[str, list[DecisionRecord]] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    labelled: set[str] = field(default_factory=set)

    def run(self, command: Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, arguments, obj=self.settings)

    def say(self, command: Command, *arguments: str) -> float:
        """Let an operator say something; gives when he was done."""
        result = self.run(command, *arguments, "--by", "ana", "--why", f"{command.name} it")
        assert result.exit_code == 0, result.output
        return time.monotonic()

    def publish(self, count: int = 1, *, terminal: str = "m1", at_ms: int = 0) -> list[str]:
        """Publish transactions to each partition; gives their ids."""
        names, records = [], []
        for _ in range(count):
            self.sent += 1
            for partition in range(self.settings.partitions):
                card = key_of(partition, self.settings)
                names.append(f"t{self.sent}-{partition}")
                event = event_bytes(
                    transaction_id=names[-1], card_id=card, terminal_id=terminal,
                    event_time=at_ms or MONDAY_MS + self.sent * 60_000,
                )  # fmt: skip
                records.append(keyed(self.settings, card, event))
        send(self.settings, TRANSACTIONS, records)
        return names

    def decided(self, names: list[str]) -> list[DecisionRecord]:
        """Wait for the decisions of transactions, and give them in this order."""
        found: dict[str, DecisionRecord] = {}
        with closing(Log(self.settings, DECISIONS)) as log:
            wait_until(
                lambda: set(names) <= {record.key.decode() for record in log.read()},
                f"{len(names)} are decided",
            )
            for item in decode_decisions(record.value for record in log.records):
                assert item is not None
                found.setdefault(item.transaction_id, item)
        return [found[name] for name in names]

    def until(self, what: str, holds: Holds, since: float, **event: Any) -> None:
        """Publish to every partition until what is decided in all of them is as it should be."""
        while True:
            self.after[what] = self.decided(self.publish(**event))
            self.seconds[what] = time.monotonic() - since
            if all(map(holds, self.after[what])):
                return
            assert self.seconds[what] < 30.0, (what, self.after[what])

    def label_all(self) -> None:
        """Label what was decided and has no label: every third is fraud."""
        found = decode_decisions(record.value for record in read(self.settings, DECISIONS))
        new = [item for item in found if item and item.transaction_id not in self.labelled]
        self.labelled |= {item.transaction_id for item in new}
        labels = [
            keyed(self.settings, item.keys["card"], label_bytes(
                label_id=f"l-{item.transaction_id}", transaction_id=item.transaction_id,
                card_id=item.keys["card"], label_time=item.event_time + DAY_MS,
                verdict="fraud" if place % 3 == 0 else "genuine",
            ))
            for place, item in enumerate(new)
        ]  # fmt: skip
        send(self.settings, FEEDBACK, labels)

    def wait_until_learned(self) -> None:
        """Wait until all that was sent is labelled, learned and published."""

        def is_learned() -> bool:
            feedback, examples = read(self.settings, FEEDBACK), read(self.settings, TRAINING)
            return self.champion() == len(examples) == len(feedback)

        wait_until(is_learned, "nothing is left to learn", seconds_max=60.0)

    def champion(self) -> int:
        """Give the training offset of the newest version published."""
        found = read_models(self.settings.kafka_servers).champion(ModelVerifier(self.settings))
        return found.training_offset if found else 0


def version_of(decision: DecisionRecord) -> int:
    return int(decision.model_version.partition("@")[2])


def tell_of_mode(story: Story) -> None:
    story.after["begin"] = story.decided(story.publish(3))
    act = story.say(said.mode, "act")
    story.until("act", lambda item: item.action_taken == item.action, act)
    kill = story.say(said.mode, "observe")
    story.until("kill switch", lambda item: item.action_taken == "none", kill)
    story.say(said.mode, "act")


def tell_of_lists(story: Story) -> None:
    blocked = story.say(said.block, "terminal", BLOCKED, "--for", "7d")
    story.until(
        "block", lambda item: item.reasons[0][0] == "LIST_BLOCKED", blocked, terminal=BLOCKED
    )
    allowed = story.say(said.allow, "terminal", ALLOWED)
    story.until("allow", lambda item: item.action == "approve", allowed, terminal=ALLOWED)
    # Both lists hold this one, and the block list wins.
    both = story.say(said.allow, "terminal", BLOCKED)
    offset = json.loads(story.run(said.mode, "--json").stdout)["offset"]
    story.until("both", lambda item: item.control_offset == offset, both, terminal=BLOCKED)
    expiring = story.say(said.allow, "terminal", EXPIRING, "--until", "2020-01-01")
    listed = [json.loads(line) for line in story.run(said.lists, "--json").stdout.splitlines()]
    [entry] = [row for row in listed if row["id"] == EXPIRING]
    until_ms = entry["until"]
    story.until(
        "before its end", lambda item: item.action == "approve", expiring,
        terminal=EXPIRING, at_ms=until_ms - 1,
    )  # fmt: skip
    story.after["at its end"] = story.decided(story.publish(terminal=EXPIRING, at_ms=until_ms))
    story.say(said.unlist, "terminal", ALLOWED)
    story.told["listed"] = listed


def tell_of_versions(story: Story) -> None:
    story.label_all()
    story.until("learned", lambda item: version_of(item) > 0, time.monotonic())
    story.wait_until_learned()
    frozen = story.say(models.commands["freeze"])
    held = json.loads(story.run(said.controls, "--json").stdout.splitlines()[-1])["version"]
    story.told["versions"] = [held]
    story.until("frozen", lambda item: item.model_version == held, frozen)
    before = story.champion()
    story.label_all()
    wait_until(lambda: story.champion() > before, "a newer version is published")
    story.wait_until_learned()
    # A worker adopts what is published within a second; these come after it.
    story.after["still frozen"] = story.decided(story.publish(3))
    story.told["published"] = list(read_models(story.settings.kafka_servers).snapshots)
    free = story.say(models.commands["unfreeze"])
    story.until("unfrozen", lambda item: version_of(item) > before, free)
    back = story.say(models.commands["rollback"], held)
    story.until("rolled back", lambda item: item.model_version == held, back)


def tell_of_a_restart(story: Story, processes: Processes, workers: list[Running]) -> list[Running]:
    for worker in workers:
        worker.end(SIGKILL)
    names = story.publish(2, terminal=BLOCKED)
    again = processes.ready("worker", "worker")
    story.after["restarted"] = story.decided(names)
    free = story.say(models.commands["unfreeze"])
    held = story.told["versions"][0]
    story.until("resumed", lambda item: item.model_version != held, free)
    return again


def tell_of_forgeries(story: Story, workers: list[Running]) -> None:
    records = read(story.settings, CONTROLS)
    first = records[0]
    send(story.settings, CONTROLS, [(0, None, first.value)])
    send(story.settings, CONTROLS, [(0, None, first.value)], headers=lambda sent: first.headers)
    for worker in workers:
        wait_until(lambda: worker.total("fraud_controls_refused_total") == 2, "two are refused")  # noqa: B023
    story.told["refused"] = [worker.samples("fraud_controls_refused_total") for worker in workers]
    story.told["acting"] = [worker.total("fraud_acting") for worker in workers]
    story.after["forged"] = story.decided(story.publish())


def tell_of_the_breaker(story: Story, processes: Processes, workers: list[Running]) -> None:
    for worker in workers:
        worker.end()
    changes = {"breaker_decline_share_max": 0.5, "breaker_events_min": BREAKER_MIN}
    at_ms = MONDAY_MS + 400 * DAY_MS
    [worker] = processes.ready("worker", **changes)
    names = story.publish(BREAKER_EVENTS // 2, at_ms=at_ms)
    story.decided(names)
    worker.end(SIGKILL)
    names += story.publish(BREAKER_EVENTS // 2, at_ms=at_ms + HOUR_MS // 2)
    [worker] = processes.ready("worker", **changes)
    story.after["breaker"] = story.decided(names)
    story.told["open"] = worker.samples("fraud_breaker_open")
    worker.end()


@pytest.fixture(scope="module")
def story(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    settings = replace(
        Settings(),
        state_dir=str(tmp_path_factory.mktemp("controls")),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        snapshot_interval_seconds=0.3,
        # What is not held is retired at once.
        models_kept=1,
        review_score_min=1e-9,
        decline_score_min=2e-9,
        breaker_decline_share_max=0.0,
    )
    reset(stack, settings)
    with Processes(settings) as processes:
        story = Story(settings)
        *workers, trainer = processes.ready("worker", "worker", "trainer")
        tell_of_mode(story)
        tell_of_lists(story)
        tell_of_versions(story)
        workers = tell_of_a_restart(story, processes, workers)
        tell_of_forgeries(story, workers)
        tell_of_the_breaker(story, processes, workers)
        trainer.end()
        story.told["verified"] = story.run(verify, "--all", "--json")
        story.told["history"] = story.run(said.controls, "--json")
        yield story


def test_a_new_installation_observes_and_says_so(story: Story) -> None:
    found = story.after["begin"]

    assert {(item.mode, item.action_taken, item.control_offset) for item in found} == {
        ("observe", "none", -1)
    }
    assert {item.action for item in found} == {"decline"}


@pytest.mark.parametrize("word", ["act", "kill switch", "block", "allow", "frozen", "unfrozen"])
def test_a_word_holds_on_both_workers_within_five_seconds(story: Story, word: str) -> None:
    assert story.seconds[word] < EFFECTIVE_SECONDS_MAX


def test_lists_decide_the_action_and_the_block_list_wins(story: Story) -> None:
    assert {item.action for item in story.after["block"]} == {"decline"}
    assert {item.reasons[0][0] for item in story.after["allow"]} == {"LIST_ALLOWED"}
    assert {item.action_taken for item in story.after["allow"]} == {"approve"}
    both = story.after["both"]
    assert {(item.action, item.reasons[0][0]) for item in both} == {("decline", "LIST_BLOCKED")}


def test_an_entry_ends_by_the_time_of_the_event(story: Story) -> None:
    assert {item.action for item in story.after["at its end"]} == {"decline"}
    assert {row["list"] for row in story.told["listed"]} == {"block", "allow"}


def test_a_frozen_version_does_not_rise_and_unfrozen_it_does(story: Story) -> None:
    [held] = story.told["versions"]

    assert {item.model_version for item in story.after["still frozen"]} == {held}
    assert len(story.after["still frozen"]) == 12
    # The trainer keeps it, beside the newest.
    names = story.told["published"]
    assert held in names
    assert len({name.partition("@")[2] for name in names}) == 2


def test_workers_that_start_again_hold_by_all_that_was_said(story: Story) -> None:
    found, before = story.after["restarted"], story.after["rolled back"]

    assert {item.control_offset for item in found} == {item.control_offset for item in before}
    assert {item.model_version for item in found} == set(story.told["versions"])
    assert {item.reasons[0][0] for item in found} == {"LIST_BLOCKED"}
    assert {item.mode for item in found} == {"act"}


def test_what_was_forged_or_sent_again_is_counted_and_changes_nothing(story: Story) -> None:
    wanted = {'fault="signature"': 1, 'fault="format"': 0, 'fault="replayed"': 1}

    assert story.told["refused"] == [wanted, wanted]
    assert story.told["acting"] == [1, 1]
    offsets = [
        {item.control_offset for item in story.after[word]} for word in ("forged", "resumed")
    ]
    assert offsets[0] == offsets[1]


def test_the_breaker_goes_on_where_a_killed_worker_was(story: Story) -> None:
    partitions = story.settings.partitions
    for partition in range(partitions):
        actions = [item.action for item in story.after["breaker"][partition::partitions]]
        reviewed = BREAKER_EVENTS - BREAKER_MIN + 1
        assert actions == ["decline"] * (BREAKER_MIN - 1) + ["review"] * reviewed

    assert set(story.told["open"].values()) == {1.0}
    assert len(story.told["open"]) == partitions


def test_history_names_who_and_why(story: Story) -> None:
    rows = [json.loads(line) for line in story.told["history"].stdout.splitlines()]

    assert [row["kind"] for row in rows] == [
        "mode", "mode", "mode", "block", "allow", "allow", "allow", "unlist",
        "freeze", "unfreeze", "rollback", "unfreeze", "refused: signature", "refused: replayed",
    ]  # fmt: skip
    kept = rows[:-2]
    assert {row["by"] for row in kept} == {"ana"}
    assert [row["why"] for row in kept] == [f"{row['kind']} it" for row in kept]
    assert [row["offset"] for row in rows] == list(range(len(rows)))


def test_every_decision_under_controls_is_made_again(story: Story) -> None:
    result = story.told["verified"]
    found = json.loads(result.stdout.splitlines()[0])

    assert result.exit_code == 0, found
    assert found["equal"] == found["distinct"] > 100


def test_a_forged_word_on_a_decision_is_found(story: Story) -> None:
    [honest] = [item for item in story.after["block"][:1]]
    forged = msgspec.structs.replace(
        honest, action="approve", action_taken="approve", reasons=honest.reasons[1:]
    )
    place = (honest.source[1], honest.transaction_id.encode(), encode_record(forged))
    send(story.settings, DECISIONS, [place])

    result = story.run(verify, honest.transaction_id)

    assert result.exit_code == 1
    assert "2 different decisions" in str(result.exception)


def test_a_live_worker_that_observes_differs_in_nothing_else(settings: Settings) -> None:
    found: dict[str, list[DecisionRecord]] = {}
    for mode in ("observe", "act"):
        ours = replace(
            settings, mode=mode, review_score_min=1e-9, decline_score_min=2e-9,
            # Which of two partitions is the first to see a terminal is left to chance.
            breaker_events_min=5, partitions=1,
        )  # fmt: skip
        reset(Endpoints(ours.kafka_servers, ours.redis_url, None), ours)
        with Processes(ours) as processes:
            processes.ready("worker")
            story = Story(ours)
            found[mode] = story.decided(story.publish(10))

    assert {item.action for item in found["act"]} == {"decline", "review"}
    assert {item.action_taken for item in found["observe"]} == {"none"}
    as_acting = [
        msgspec.structs.replace(item, mode="act", action_taken=item.action)
        for item in found["observe"]
    ]
    assert list(map(encode_record, as_acting)) == list(map(encode_record, found["act"]))

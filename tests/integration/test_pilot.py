"""The pilot of docs/pilot.md: its very commands, on secured servers, with a team's own fields.

The page is walked through once; the tests look at what was said and at what it left.
"""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consumers.log_reader import LogReader, read_topic
from pipeline.partitioner import partition_of
from pipeline.records import DecisionRecord, decode_decisions, decode_examples
from pipeline.schema import load_schema
from pipeline.topics import DECISIONS, TOPICS, TRAINING, TRANSACTIONS
from stack import kafka_clients
from stack.processes import Started, start
from stack.services import stop_services
from tests.integration.pilot_world import Row, World, chargebacks, record_of
from tests.integration.processes import Running
from tests.secured import Secured, password, secured_servers
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "pilot.md"
BLOCK = re.compile(r"^## (\d+)\. [^\n]*$|^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.toml)\n")
DATA, CONNECTIONS, PAST, WATCHING, CHARGEBACKS, WHO_IS_BETTER, EMERGENCY, HOLDS = range(1, 9)
ROLES = ("worker", "trainer", "backfill", "monitor", "console", "operator", "admin", "scanner")
PARTITIONS = 2
EFFECTIVE_SECONDS_MAX = 5.0
# The last days of the file, which the topic holds as well.
OVERLAP_ROWS = 600
COMMAND_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Said:
    """What the commands of a block said, and how they ended."""

    code: int
    out: str
    err: str
    ended_at: float


def blocks() -> Iterator[tuple[int, str, str]]:
    """Give the blocks of the page: number of the section, language, text."""
    section = 0
    for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if found[1]:
            section = int(found[1])
        else:
            yield section, found[2], found[3]


@dataclass
class Pilot:
    """A folder with a file of the past, the servers of the team, and what happened."""

    folder: Path
    secured: Secured
    world: World
    running: dict[str, Running] = field(default_factory=dict)
    said: dict[tuple[int, int], Said] = field(default_factory=dict)
    sent: list[Row] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    decisions: list[DecisionRecord] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    wrong_password: Said | None = None
    blocked: list[DecisionRecord] = field(default_factory=list)
    acted: set[str] = field(default_factory=set)
    joined_once: dict[str, int] = field(default_factory=dict)
    joined_twice: dict[str, int] = field(default_factory=dict)
    left: list[dict[str, str]] = field(default_factory=list)
    _log: LogReader | None = None

    @property
    def card(self) -> str:
        """The card that is blocked."""
        return str(self.world.live[-1]["card_token"])

    def run(self, text: str, *, expected: int = 0) -> Said:
        """Run commands as a reader would, in the folder."""
        done = subprocess.run(
            ["bash", "-e", "-c", text],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert done.returncode == expected, f"{text}\n{done.stdout}\n{done.stderr}"
        return Said(done.returncode, done.stdout, done.stderr, time.monotonic())

    @property
    def _environment(self) -> dict[str, str]:
        plain = {name: text for name, text in os.environ.items() if not name.startswith("FRAUD")}
        commands = f"{Path(sys.executable).parent}:{plain['PATH']}"
        return {**plain, "PATH": commands, "CARD": self.card, "COLUMNS": "160"}

    def background(self, line: str) -> Running:
        """Start a command that the page leaves running; it ends with the test."""
        [name, log] = re.findall(r"fraudstream (\w+) > (\S+)", line)[0]
        command = ["/usr/bin/env", *(f"{key}={text}" for key, text in self._environment.items())]
        command += ["bash", "-c", f"exec {line.removesuffix(' &')}"]
        found = start(command, folder=self.folder, log=self.folder / f"{name}.out", attached=True)
        self.running[name] = Running(
            name, Started(found.process, found.lifeline, self.folder / log)
        )
        wait_until((self.folder / log).exists, f"{name} has a log")
        return self.running[name]

    def write(self, name: str, text: str) -> None:
        """Write a file of the page, with the addresses of the test where it names others."""
        ca = str(self.secured.authority.file)
        given: dict[str, object] = {
            "kafka_servers": f"127.0.0.1:{self.secured.kafka_port}",
            "redis_url": f"rediss://127.0.0.1:{self.secured.redis_port}/0",
            "kafka_ca_file": ca,
            "redis_ca_file": ca,
            "partitions": PARTITIONS,
        }
        if name == "fraudstream.toml":
            for key, value in given.items():
                line = f"{key} = {json.dumps(value)}"
                text, count = re.subn(rf"^{key} = .*$", line, text, flags=re.MULTILINE)
                assert count == 1, key
        (self.folder / name).write_text(text, encoding="utf-8")

    def publish(self, rows: Sequence[Row]) -> None:
        """Send rows as the team's own producer does."""
        kafka = self.secured.kafka("producer")
        with closing(kafka_clients.producer(kafka, enable_idempotence=True)) as producer:
            for row in rows:
                key, value = record_of(row)
                producer.send(kafka.topic(TRANSACTIONS), value, key)
            producer.flush(30)
        self.sent += rows

    def decided(self, rows: Sequence[Row], *, seconds_max: float = 30.0) -> list[DecisionRecord]:
        """Wait for the decisions of rows, and give them in this order."""
        names = [str(row["payment_ref"]) for row in rows]
        found: dict[str, DecisionRecord] = {}

        def are_there() -> bool:
            self.read_decisions()
            found.update({item.transaction_id: item for item in self.decisions})
            return set(names) <= found.keys()

        wait_until(are_there, f"{len(names)} are decided", seconds_max=seconds_max)
        return [found[name] for name in names]

    def read_decisions(self) -> None:
        """Read on in the log of decisions."""
        if self._log is None:
            self._log = LogReader(self.secured.kafka("monitor"), DECISIONS)
        for chunk in self._log.chunks():
            for item in decode_decisions(record.value for record in chunk):
                assert item is not None
                self.decisions.append(item)

    def probe(self, card: str | None = None) -> list[DecisionRecord]:
        """Send a transaction to each partition, of this card if it is named, and await them."""
        last = self.world.live[-1]
        cards = [card] if card else [self._card_of(p) for p in range(PARTITIONS)]
        rows: list[Row] = []
        for name in cards:
            number = len(self.probes) + len(rows)
            rows.append({**last, "payment_ref": f"probe-{number}", "card_token": name})
        self.probes += rows
        self.publish(rows)
        return self.decided(rows)

    def _card_of(self, partition: int) -> str:
        cards = (str(row["card_token"]) for row in self.world.live)
        return next(
            name
            for name in cards
            if name != self.card and partition_of(name.encode(), PARTITIONS) == partition
        )

    def until(self, what: str, holds: Callable[[DecisionRecord], bool], since: float) -> None:
        """Send probes until what is decided in all partitions is as it should be."""
        while True:
            found = self.probe()
            self.acted |= {item.transaction_id for item in found if item.mode == "act"}
            self.seconds[what] = time.monotonic() - since
            if all(map(holds, found)):
                return
            assert self.seconds[what] < COMMAND_SECONDS_MAX, (what, found)

    def joined(self) -> dict[str, int]:
        """Say how often each transaction was learned from a chargeback file."""
        values = [record.value for record in read_topic(self.secured.kafka("monitor"), TRAINING)]
        found = [item for item in decode_examples(values) if item is not None]
        return Counter(item.transaction_id for item in found if item.label_id.startswith("cb"))

    def close(self) -> None:
        """End what was started."""
        stop_services([item.started for item in self.running.values()])
        if self._log is not None:
            self._log.close()

    def before(self, place: tuple[int, int]) -> None:
        """Do what a team has done, or what happens, before a block of the page."""
        if place == (CONNECTIONS, 3):
            self._prepare_servers()
        elif place == (PAST, 0):
            # The topic holds the end of what is in the file, and what came since.
            self.publish(self.world.past[-OVERLAP_ROWS:] + self.world.live[:300])
        elif place == (CHARGEBACKS, 1):
            chargebacks(self.folder / "chargebacks.csv", self.world)
        elif place == (EMERGENCY, 0):
            assert self.probe(self.card)[0].reasons[0][0] != "LIST_BLOCKED"

    def after(self, place: tuple[int, int], said: Said) -> None:
        """See to it that what a block has begun is done."""
        if place == (CONNECTIONS, 3):
            check = "./as worker env FRAUD_KAFKA_PASSWORD_FILE=secrets/console fraudstream check"
            self.wrong_password = self.run(check, expected=1)
        elif place == (WATCHING, 0):
            for running in self.running.values():
                running.wait_until_ready()
            self.publish(self.world.past[-50:] + self.world.live[250:])
            self.decided(self.world.live)
        elif place == (CHARGEBACKS, 1):
            self._send_again()
        elif place == (EMERGENCY, 0):
            while self.probe(self.card)[0].reasons[0][0] != "LIST_BLOCKED":
                assert time.monotonic() - said.ended_at < COMMAND_SECONDS_MAX
            self.blocked = self.probe(self.card)
        elif place == (EMERGENCY, 1):
            self.until("act", lambda item: item.mode == "act", said.ended_at)
        elif place == (EMERGENCY, 2):
            self.until("observe", lambda item: item.mode == "observe", said.ended_at)

    def _prepare_servers(self) -> None:
        secrets = self.folder / "secrets"
        secrets.mkdir(mode=0o700)
        for role in ROLES:
            path = secrets / role
            path.touch(mode=0o600)
            path.write_text(f"{password(role)}\n", encoding="utf-8")
        [topic] = [topic for topic in TOPICS if topic.name == TRANSACTIONS]
        with self.secured.administration() as admin:
            given = {"num_partitions": PARTITIONS, "configs": topic.config}
            admin.create_topics({"payments.auth": given})

    def _send_again(self) -> None:
        """Wait until the chargebacks are learned, then send the same file a second time."""
        with (self.folder / "left.csv").open(encoding="utf-8") as file:
            self.left = list(csv.DictReader(file))
        wait_until(lambda: len(self.joined()) == LEARNED, "the chargebacks are learned")
        self.joined_once = self.joined()
        repeated = self._repeated()
        command = "./as console fraudstream labels chargebacks.csv --mapping chargebacks.toml"
        self.run(command, expected=1)
        wait_until(lambda: self._repeated() == repeated + LEARNED, "they are known")
        self.joined_twice = self.joined()

    def _repeated(self) -> float:
        return self.running["worker"].samples("fraud_label_paths_total").get('path="repeated"', 0.0)


LEARNED = 8


@contextmanager
def walked_through(folder: Path, secured: Secured) -> Iterator[Pilot]:
    """Do all that the page says."""
    pilot = Pilot(folder, secured, World.made())
    pilot.world.write_past(folder / "past.csv")
    counts: Counter[int] = Counter()
    try:
        for section, language, text in blocks():
            if language == "toml":
                name = FILE.match(text)
                assert name is not None, text
                pilot.write(name[1], text)
                counts[section] += 1
                continue
            assert language == "sh", language
            place = (section, counts[section])
            counts[section] += 1
            pilot.before(place)
            if text.rstrip().endswith("&"):
                for line in text.strip().splitlines():
                    pilot.background(line)
                said = Said(0, "", "", time.monotonic())
            else:
                said = pilot.run(text, expected=1 if section == CHARGEBACKS else 0)
            pilot.said[place] = said
            pilot.after(place, said)
        pilot.read_decisions()
        yield pilot
    finally:
        pilot.close()


@pytest.fixture(scope="module")
def pilot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pilot]:
    """Walk through the page once."""
    folder = tmp_path_factory.mktemp("pilot")
    with (
        secured_servers(tmp_path_factory.mktemp("theirs"), is_new=True) as secured,
        walked_through(folder, secured) as found,
    ):
        yield found


def test_the_schema_that_was_inferred_needs_nothing_but_what_the_page_adds(pilot: Pilot) -> None:
    schema = load_schema(str(pilot.folder / "payments.toml"))

    assert (schema.event_id, schema.event_time, schema.amount, schema.label) == (
        *("payment_ref", "authorised_at", "gross_amount", "confirmed_fraud"),
    )
    assert [(item.name, item.field) for item in schema.entities] == [
        *(("card", "card_token"), ("terminal", "terminal_no")),
    ]
    assert schema.incumbent_fields == ("risk_points", "engine_verdict")
    assert f"past.csv fits: {len(pilot.world.past):,} rows" in pilot.said[DATA, 1].out


def test_check_is_clean_and_names_what_is_wrong(pilot: Pilot) -> None:
    said = pilot.said[CONNECTIONS, 3]

    assert "problem" not in said.out
    assert "topic fraud.decisions: READ, WRITE allowed" in said.out
    assert pilot.wrong_password is not None
    assert "refuses the password of worker" in pilot.wrong_password.out


def test_the_file_and_the_topic_are_decided_without_a_gap_or_an_overlap(pilot: Pilot) -> None:
    found = Counter(item.transaction_id for item in pilot.decisions)
    rows = pilot.world.past + pilot.world.live + pilot.probes

    assert found == Counter({str(row["payment_ref"]): 1 for row in rows})
    assert f"decided {len(pilot.world.past):,} transactions of past.csv" in pilot.said[PAST, 0].out
    # Some stood in the file and on the topic, some came on the topic twice.
    assert len(pilot.sent) > len(pilot.world.live) + len(pilot.probes) + OVERLAP_ROWS
    by_source = Counter(item.source[0] for item in pilot.decisions)
    assert by_source["backfill.transactions"] == len(pilot.world.past)


def test_what_was_observed_says_so_and_carries_what_the_incumbent_said(pilot: Pilot) -> None:
    observed = [item for item in pilot.decisions if item.transaction_id not in pilot.acted]
    rows = {str(row["payment_ref"]): row for row in pilot.world.past + pilot.world.live}

    assert {(item.mode, item.action_taken) for item in observed} == {("observe", "none")}
    assert {item.action for item in observed} >= {"approve", "review", "decline"}
    assert {item.schema_hash for item in observed} == {pilot.decisions[0].schema_hash}
    for item in pilot.decisions:
        if row := rows.get(item.transaction_id):
            assert item.incumbent is not None
            assert item.incumbent.score == pytest.approx(int(row["risk_points"]) / 999)
    assert "observe" in pilot.said[WATCHING, 1].out
    assert "RULE_LARGE_AMOUNT" in pilot.said[WATCHING, 1].out


def test_rows_of_chargebacks_are_matched_or_left_and_twice_is_once(pilot: Pilot) -> None:
    said = pilot.said[CHARGEBACKS, 1].out

    assert re.search(r"matched by reference 5, by token 3, .* for a person 3$", said, re.MULTILINE)
    assert "labels     fraud 7, genuine 1, dispute won 0" in said
    assert sorted(item["kind"] for item in pilot.left) == [
        *("ambiguous", "unknown_reason", "unmatched"),
    ]
    assert set(pilot.joined_once.values()) == {1}
    assert pilot.joined_twice == pilot.joined_once


def test_both_systems_are_compared(pilot: Pilot) -> None:
    answer: dict[str, Any] = json.loads((pilot.folder / "compare.json").read_text())

    equal = answer["equal_budget"]
    stopped = [row for row in pilot.world.past + pilot.world.live if _is_alert(row)]
    assert answer["verdict"]
    assert answer["decisions"] == len(pilot.world.past) + len(pilot.world.live)
    assert answer["without_incumbent"] == 0
    assert equal["they"]["alerts"] == len(stopped)
    assert equal["we"]["alerts"] == equal["they"]["alerts"]
    assert equal["we"]["caught"] > 0 < equal["they"]["caught"]
    assert equal["labelled"] > 0.8 * len(pilot.world.past)
    assert "<html" in (pilot.folder / "compare.html").read_text(encoding="utf-8")


def _is_alert(row: Row) -> bool:
    return row["engine_verdict"] != "ACCEPT"


def test_a_blocked_card_is_declined_and_nothing_is_done_of_it(pilot: Pilot) -> None:
    [item] = pilot.blocked

    assert (item.action, item.action_taken) == ("decline", "none")
    assert item.reasons[0][0] == "LIST_BLOCKED"
    assert pilot.card in pilot.said[EMERGENCY, 0].out


def test_acting_and_the_kill_switch_hold_within_five_seconds(pilot: Pilot) -> None:
    acted = [item for item in pilot.decisions if item.transaction_id in pilot.acted]

    assert acted and all(item.action_taken == item.action for item in acted)
    assert max(pilot.seconds.values()) < EFFECTIVE_SECONDS_MAX, pilot.seconds


def test_decisions_are_verified_and_no_card_number_is_found(pilot: Pilot) -> None:
    said = pilot.said[HOLDS, 0].out

    assert re.search(r"\b0 card numbers found", said)
    assert f"{len(pilot.decisions):,}" in said
    assert "stopped to look" in said

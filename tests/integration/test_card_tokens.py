"""A file of card numbers through the whole system: none is kept anywhere, and the search can fail.

First everything that the system keeps and says is searched, then a number is planted in each place.
"""

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from click import Command
from click.testing import CliRunner, Result
from redis import Redis

from consumers.model_pointer import CHAMPION_KEY, Champion
from consumers.models_command import save
from consumers.review_commands import label
from pipeline.keys import init_keys
from pipeline.records import DecisionRecord, decode_decisions
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS, FEEDBACK, MODELS, TOPICS, TRANSACTIONS
from producers.batch import EventBatch, joined
from producers.commands import publish_command
from producers.encoding import amount_texts
from producers.feed import limited
from producers.replay_command import replay
from producers.simulator import SimulatorOptions, simulate
from producers.tokens import Tokeniser
from stack.scan_command import scan
from stack.servers import Endpoints
from stack.services import start_service
from tests.card_numbers import CARDS, SCHEMA_TEXT, grouped, luhn_ended
from tests.integration.processes import Running, Sent, keyed, read, send
from tests.resetting import reset
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENTS = 400
PLANTED = CARDS[5]
VERBOSE = "import sys; sys.argv.insert(1, '-v'); from pipeline.cli import main; main()"


@dataclass
class Life:
    """What ran, what was searched, and what the searches said."""

    settings: Settings
    kept: Path
    numbers: list[str]
    batch: EventBatch
    answers: dict[str, Result] = field(default_factory=dict)
    pages: list[str] = field(default_factory=list)
    clean: dict[str, Any] = field(default_factory=dict)
    after_refusal: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, command: Command, *arguments: object) -> Result:
        return CliRunner().invoke(command, [str(text) for text in arguments], obj=self.settings)

    def search(self, *arguments: object) -> dict[str, Any]:
        result = self.run(scan, *arguments, "--json")
        assert PLANTED not in result.output
        found: dict[str, Any] = json.loads(result.stdout) | {"exit": result.exit_code}
        return found

    def decisions(self) -> list[DecisionRecord]:
        found = decode_decisions(record.value for record in read(self.settings, DECISIONS))
        return [item for item in found if item is not None]

    def champion(self) -> str:
        found = [r.value for r in read(self.settings, MODELS) if r.key == CHAMPION_KEY]
        return msgspec.json.decode(found[-1], type=Champion).version if found else ""


def write_file(path: Path) -> tuple[list[str], EventBatch]:
    """Write simulated events as a file whose cards are numbers, in the ways people write them."""
    world = SimulatorOptions(customers=60, terminals=20, days=20, bursts_a_day=0.3)
    batch = joined(list(limited(simulate(world), EVENTS)))
    number_of = {
        card: luhn_ended(f"40{place:013d}") for place, card in enumerate(sorted(set(batch.keys[0])))
    }
    numbers = [number_of[card] for card in batch.keys[0]]
    written = [grouped(number, (" ", "-", "")[place % 3]) for place, number in enumerate(numbers)]
    pd.DataFrame(
        {
            "transaction_id": batch.transaction_id,
            "event_time": batch.event_time_ms,
            "card_number": written,
            "terminal_id": batch.keys[1],
            "amount": amount_texts(batch.amount_minor.tolist(), 2),
            "is_fraud": batch.is_fraud,
        }
    ).to_csv(path, index=False)
    return numbers, batch


def live(life: Life, endpoints: Endpoints, source: Path) -> None:
    """Publish, decide, label, train; keep a snapshot, decisions and a report; search everything."""
    services = {}
    for name in ("worker", "trainer", "monitor"):
        log = life.kept / f"{name}.log"
        started = start_service(name, life.settings, endpoints, log=log, program=VERBOSE)
        services[name] = Running(name, started)
    for service in services.values():
        service.wait_until_ready()
    try:
        life.answers["publish"] = life.run(
            publish_command, source, "--label-delay", "1h", "--labels-to-end", "--json"
        )
        assert life.answers["publish"].exit_code == 0, life.answers["publish"].output
        wait_until(lambda: len(life.decisions()) == EVENTS, "all are decided")
        wait_until(lambda: life.champion() == f"additive@{EVENTS}", "all are learned")
        life.answers["label"] = life.run(
            label, life.batch.transaction_id[0], "fraud", "--by", "ana"
        )
        life.answers["save"] = life.run(save, "champion", life.kept / "model.snapshot")
        life.answers["replay"] = life.run(
            *(replay, source, "--json", "--features", "--decisions", life.kept / "made.parquet"),
            *("--report", life.kept / "report.html"),
        )
        for name, answer in life.answers.items():
            (life.kept / f"{name}.said").write_text(answer.output)
        life.pages = [service.address or "" for service in services.values()]
        life.clean = life.search("--kafka", "--redis", *life.pages, life.kept)
        refuse(life)
        life.after_refusal = {
            "transactions": life.search("--topic", TRANSACTIONS),
            "others": life.search(
                *("--topic", DEAD_LETTERS, "--topic", DECISIONS, "--redis"),
                *(*life.pages, life.kept),
            ),
        }
    finally:
        for service in services.values():
            if not service.has_ended:
                service.end()


def refuse(life: Life) -> None:
    """Send a number in clear in every way, as a producer without a tokeniser would."""
    good = {"transaction_id": "r1", "event_time": int(life.batch.event_time_ms[-1])}
    good |= {"card_number": "c1", "terminal_id": "m1", "amount": "1"}
    ways: list[dict[str, object]] = [
        {"card_number": PLANTED},
        {"card_number": grouped(PLANTED, "-")},
        {"terminal_id": f"t{PLANTED}"},
        {"amount": PLANTED},
        {"event_time": int(PLANTED)},
        {"card_number": 1, "unknown": {"deep": [grouped(PLANTED, " ")]}},
    ]
    records = []
    for number, way in enumerate(ways):
        event = good | {"transaction_id": f"r{number}"} | way
        key = str(event["card_number"])
        records.append(keyed(life.settings, key, json.dumps(event).encode()))
    before = len(read(life.settings, DEAD_LETTERS))

    def headers(record: Sent) -> list[tuple[str, bytes]]:
        return [("number", PLANTED.encode()), (f"x-{PLANTED}", b"")]

    send(life.settings, TRANSACTIONS, records, headers=headers)
    told = {"label_id": "l1", "transaction_id": "r9", "card_number": "c1", "verdict": "fraud"}
    told |= {"source": "analyst", "label_time": good["event_time"], "by": f"ana {PLANTED}"}
    send(life.settings, FEEDBACK, [keyed(life.settings, "c1", json.dumps(told).encode())])
    all_of_them = before + len(records) + 1
    wait_until(lambda: len(read(life.settings, DEAD_LETTERS)) == all_of_them, "all are refused")


@pytest.fixture(scope="module")
def life(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("numbers")
    kept = folder / "kept"
    kept.mkdir()
    (folder / "numbers.toml").write_text(SCHEMA_TEXT)
    settings = replace(
        Settings(),
        state_dir=str(kept),
        keys_dir=str(folder / "keys"),
        schema=str(folder / "numbers.toml"),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
        review_score_min=0.000001,
        decline_score_min=1.0,
        snapshot_interval_seconds=0.1,
    )
    reset(stack, settings)
    init_keys(settings.keys_path, ["card-tokens"])
    numbers, batch = write_file(folder / "source.csv")
    life = Life(settings, kept, numbers, batch)
    live(life, stack, folder / "source.csv")
    return life


def test_each_card_is_decided_under_its_token(life: Life) -> None:
    tokeniser = Tokeniser(life.settings.keys_path)
    rows = zip(life.batch.transaction_id, life.numbers, strict=True)
    expected = {name: tokeniser.token(number, 0) for name, number in rows}

    assert {item.transaction_id: item.keys["card"] for item in life.decisions()} == expected
    assert len(set(expected.values())) == len(set(life.numbers)) > 30


def test_all_steps_were_made(life: Life) -> None:
    assert {name: answer.exit_code for name, answer in life.answers.items()} == dict.fromkeys(
        life.answers, 0
    ), {name: answer.output for name, answer in life.answers.items()}
    made = pd.read_parquet(life.kept / "made.parquet")
    assert made["card_id"].str.startswith("tok-1-").all()
    logs = [(life.kept / f"{name}.log").read_text() for name in ("worker", "trainer", "monitor")]
    assert all(" INFO " in log for log in logs)


def test_no_number_is_kept_or_said_anywhere(life: Life) -> None:
    looked = life.clean["looked_at"]

    assert life.clean["places"] == life.clean["could_not_read"] == []
    assert (life.clean["found"], life.clean["exit"]) == (0, 0)
    # Transactions, labels, decisions and examples at least, and all that stands in Redis.
    assert looked["records"] > 4 * EVENTS
    assert looked["redis keys"] > 100
    assert looked["pages"] == 3
    assert looked["files"] >= 10


def test_a_number_planted_in_any_file_that_was_kept_is_found(life: Life, tmp_path: Path) -> None:
    kept = [file for file in life.kept.iterdir() if file.is_file()]
    for file in kept:
        copy = tmp_path / file.name
        if file.suffix == ".parquet":
            frame = pd.read_parquet(file)
            frame.loc[EVENTS - 1, "card_id"] = PLANTED
            frame.to_parquet(copy)
        else:
            copy.write_bytes(file.read_bytes() + f" {PLANTED} ".encode())

    found = life.search(tmp_path)

    assert {"worker.log", "model.snapshot", "made.parquet", "report.html"} <= {
        file.name for file in kept
    }
    assert found["by_source"] == {f"file {tmp_path / file.name}": 1 for file in kept}


def test_a_number_that_arrives_in_clear_stays_where_it_came_and_goes_nowhere(life: Life) -> None:
    arrived, others = life.after_refusal["transactions"], life.after_refusal["others"]

    assert arrived["exit"] == 1 and arrived["different_numbers"] == 1
    assert (others["found"], others["places"], others["exit"]) == (0, [], 0)
    reasons = [
        dict(record.headers)["fraud.errors.reason"] for record in read(life.settings, DEAD_LETTERS)
    ]
    assert reasons.count(b"card_number") == 4 and reasons.count(b"schema") == 3


@pytest.fixture
def planted(settings: Settings) -> Iterator[Redis]:
    """Empty servers, for numbers of ours."""
    with Redis.from_url(settings.redis_url) as client:
        yield client


def search(settings: Settings, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(scan, [*arguments, "--json"], obj=settings)
    assert PLANTED not in result.output
    assert result.exit_code == 1, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_number_in_a_topic_is_found_wherever_it_stands(
    settings: Settings, planted: Redis
) -> None:
    inside = base64.b64encode(b"\x00" * 7 + PLANTED.encode()).decode()
    records: list[Sent] = [
        (0, PLANTED.encode(), b"x"),
        (0, b"k1", f'{{"a":"{PLANTED}"}}'.encode()),
        (0, b"k2", f'{{"features":"{inside}"}}'.encode()),
        (0, b"k3", None),
        (0, b"k4", b"x"),
        (0, b"k5", b'{"event_time":1793534400000,"score":0.4111111111111111}'),
    ]
    headers = {b"k3": [("h", grouped(PLANTED, " ").encode())], b"k4": [(f"h{PLANTED}", b"")]}
    for topic in TOPICS:
        send(
            settings, topic.name, records, headers=lambda record: headers.get(record[1] or b"", [])
        )

    found = search(settings, "--kafka")

    ends = ["0 key", "1 value", "2 value", "3 header h", "4 name of a header"]
    assert [(place["where"], place["place"]) for place in found["places"]] == [
        (f"topic {topic.name}", f"partition 0 offset {end}") for topic in TOPICS for end in ends
    ]
    assert found["different_numbers"] == 1


def test_a_number_in_redis_is_found_in_every_kind_of_key(
    planted: Redis, settings: Settings
) -> None:
    planted.set(f"name:{PLANTED}", "x")
    planted.set("string", b"\xff\x00" + PLANTED.encode() + b"\x00")
    planted.hset("hash", mapping={"a": PLANTED, PLANTED: "b", "c": "1793534400000"})
    planted.rpush("list", *(["x"] * 2_500), PLANTED)
    planted.sadd("set", "x", PLANTED)
    planted.zadd("zset", {"x": 1_793_534_400_000.0, PLANTED: 1.5})
    for value in ("x", PLANTED):
        planted.xadd("stream", {"v": value})

    found = search(settings, "--redis")

    masked = "redis key name:" + "*" * len(PLANTED)
    kinds = {f"redis key {kind}": 1 for kind in ("string", "list", "set", "zset", "stream")}
    assert found["by_source"] == kinds | {"redis key hash": 2, masked: 1}
    assert found["looked_at"] == {"redis keys": 7}


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f'fraud_x 1\nfraud_y{{card="{PLANTED}"}} 1\n'.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def page() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_number_on_a_page_of_metrics_is_found() -> None:
    with page() as address:
        found = search(Settings(), address)

    assert [place["place"] for place in found["places"]] == ["line 2"]

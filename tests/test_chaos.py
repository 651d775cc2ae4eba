"""The parts of the chaos suite that need no server."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import click
import pytest

from benchmarks.chaos.__main__ import chosen
from benchmarks.chaos.bad_snapshots import BAD_SNAPSHOTS, BadSnapshot, Signers
from benchmarks.chaos.cases import CASES, Case, round_of_kills
from benchmarks.chaos.document import tables, write_document
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.launcher import EXIT_CODE, Control, Orders, give_orders
from benchmarks.chaos.results import CaseResult, Recovery, append, load, new_run, totals
from benchmarks.chaos.traffic import EVENTS_BEFORE_DUPLICATE_MAX, Stream, TrafficOptions
from models import make_model
from models.snapshot import encode
from pipeline.errors import SnapshotError
from pipeline.keys import init_keys
from pipeline.sealing import read_sealed, seal
from pipeline.settings import Settings
from pipeline.signing import ModelSigner, ModelVerifier
from pipeline.topics import FEEDBACK, OUTCOMES
from producers.feed import Block
from tests.strategies import CARD

DYING = """
import sys
from pathlib import Path
from benchmarks.chaos.launcher import Control
control = Control(Path(sys.argv[1]))
for _ in range(5):
    control.passes("before_cas")
    control.passes("after_cas")
    print("passed", flush=True)
"""


def result(**changes: object) -> CaseResult:
    fields: dict[str, object] = {"name": "zombie", "faults": "3", "title": "halted", "seed": 1}
    return CaseResult(**(fields | changes))  # type: ignore[arg-type]


def test_a_process_dies_at_the_point_and_the_time_that_it_is_told(tmp_path: Path) -> None:
    control = tmp_path / "control"
    give_orders(control, Orders(fail_at="after_cas", after=3))

    done = subprocess.run(
        [sys.executable, "-c", DYING, str(control)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )

    assert done.returncode == EXIT_CODE
    assert done.stdout.split() == ["passed"] * 2


def test_orders_are_seen_when_they_change_and_when_they_go(tmp_path: Path) -> None:
    path = tmp_path / "control"
    control = Control(path)
    seen = [control.orders.clock_seconds]
    for seconds in (60.0, -60.0):
        give_orders(path, Orders(clock_seconds=seconds))
        seen.append(control.orders.clock_seconds)
    path.unlink()
    seen.append(control.orders.clock_seconds)

    assert seen == [0.0, 60.0, -60.0, 0.0]


def test_each_of_the_fifteen_faults_has_a_case() -> None:
    covered = {number for case in CASES for number in case.faults.split(", ")}

    # The sixteenth is the long run.
    assert covered == {str(number) for number in range(1, 16)}
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [*CASES, round_of_kills(20)], ids=lambda case: case.name)
def test_a_script_is_made_of_its_seed_and_of_known_verbs(case: Case) -> None:
    acts = case.script(Random(5))

    assert acts == case.script(Random(5))
    assert all(callable(getattr(Faults, act.verb)) for act in acts)


def test_cases_are_chosen_by_name_and_unknown_ones_refused() -> None:
    assert [case.name for case in chosen("broker-*,zombie")] == [
        "zombie", "broker-restart", "broker-kill", "broker-stop",
    ]  # fmt: skip
    assert chosen(None) == list(CASES)
    with pytest.raises(click.BadParameter, match="no case 'zombies': known are "):
        chosen("zombies")


def blocks(seed: int, count: int) -> list[Block]:
    stream = Stream(CARD, TrafficOptions(seed=seed, customers=300, terminals=100))
    return [block for _ in range(count) for block in stream.next_blocks()]


def test_a_stream_is_the_same_for_a_seed_and_another_for_another() -> None:
    assert blocks(1, 30) == blocks(1, 30)
    assert blocks(1, 30) != blocks(2, 30)


def test_a_duplicate_follows_within_what_a_card_remembers() -> None:
    seen: dict[str, int] = {}
    since: Counter[str] = Counter()
    duplicates = 0
    for block in blocks(3, 400):
        rows = zip(block.transaction_id, block.key, strict=True)
        for name, key in rows:
            if not name or name.startswith("rubbish"):
                continue
            if name in seen:
                duplicates += 1
                assert since[key] - seen[name] <= EVENTS_BEFORE_DUPLICATE_MAX
            else:
                since[key] += 1
                seen[name] = since[key]

    assert duplicates > 100


def test_a_stream_speaks_of_all_inputs() -> None:
    found = blocks(4, 200)
    topics = {block.topic for block in found if not block.transaction_id[0]}

    assert topics == {FEEDBACK, OUTCOMES}
    assert any(name.startswith("rubbish") for block in found for name in block.transaction_id)


@pytest.mark.parametrize("bad", BAD_SNAPSHOTS, ids=lambda bad: bad.name)
def test_a_bad_snapshot_is_bad_and_is_made_of_a_good_one(bad: BadSnapshot, tmp_path: Path) -> None:
    names = ("amount", "hour")
    good = encode(
        make_model("additive", names), version="additive@1", training_offset=1, schema_hash="s1"
    )
    ours = replace(Settings(), keys_dir=str(tmp_path / "ours"))
    forger = replace(Settings(), keys_dir=str(tmp_path / "forger"))
    for settings in (ours, forger):
        init_keys(settings.keys_path)
    signers, verifier = Signers(ModelSigner(ours), ModelSigner(forger)), ModelVerifier(ours)

    assert read_sealed(seal(good, signers.ours), verifier).version == "additive@1"
    with pytest.raises(SnapshotError):
        read_sealed(bad.made_of(good, signers), verifier)


def test_totals_say_what_failed_what_was_late_and_what_was_not_made() -> None:
    found = totals(
        [
            result(kills=20, events=1_000, repeated=50, recoveries=[Recovery("worker", 4.0)]),
            result(name="storm", found=["(a) lost"], lost=1, late=["storm: too long"]),
            result(name="disk-kafka", made=False, why_not="no mount", kills=99),
        ]
    )

    assert (found["kills"], found["events"], found["lost"]) == (20, 1_000, 1)
    assert (found["failed"], found["not_made"]) == (["storm"], ["disk-kafka"])
    assert found["late"] == ["storm: too long"]
    assert found["duplicates_per_kill"] == 2.5
    assert found["worker_recovery_p95_seconds"] == 4.0


def test_runs_are_kept_and_their_tables_put_into_a_document(tmp_path: Path) -> None:
    kept, document = tmp_path / "results" / "chaos.jsonl", tmp_path / "reliability.md"
    names = [name for name, _ in tables([])]
    places = "".join(f"<!-- table: {name} -->\nold\n<!-- end: {name} -->\n" for name in names)
    document.write_text(f"before\n{places}after\n")
    for seed in (1, 2):
        append(kept, new_run(seed, 10.0, [result(events=700, kills=3)]))

    write_document(document, load(kept))

    text = document.read_text()
    assert [run.seed for run in load(kept)] == [1, 2]
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| 3 | `zombie` | halted | 2 of 2 | 1,400 | 6 | 0 |" in text
    assert "| transactions | 1,400 |" in text

"""A file of rules that changes while a worker runs: taken whole, or refused whole."""

import logging
from pathlib import Path

import pytest

from consumers.rules_file import RulesFile
from pipeline.counts import WorkerCounts
from pipeline.errors import RulesError
from pipeline.metrics import worker_registry
from pipeline.rules import read_rules
from pipeline.settings import Settings
from tests.strategies import CARD

RULE = '[[rule]]\ncode = "RULE_A"\naction = "review"\nstate = "{state}"\nwhen = ["amount >= 5"]\n'
ACT, SHADOW = (RULE.format(state=state) for state in ("act", "shadow"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SHADOW)
    return path


def test_a_changed_file_is_taken_and_an_unchanged_one_is_not_taken_again(path: Path) -> None:
    counts = WorkerCounts(schema="card")
    file = RulesFile(Settings(rules=str(path)), CARD, counts)
    before = file.current

    file.take(SHADOW)
    assert (file.current, counts.rules_taken) == (before, 0)
    file.take(ACT)
    file.take(ACT)

    assert file.current.version != before.version
    assert (counts.rules_taken, counts.rules_refused) == (1, 0)


def test_a_broken_file_keeps_the_rules_says_so_once_and_is_counted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = WorkerCounts(schema="card")
    file = RulesFile(Settings(rules=str(path)), CARD, counts)
    before, registry = file.current, worker_registry(counts)

    with caplog.at_level(logging.ERROR):
        file.take(ACT.replace("amount", "amuont"))
        file.take(ACT.replace("amount", "amuont"))

    [said] = [record.getMessage() for record in caplog.records]
    assert f"rules {path}: rule 1 (RULE_A): 'amuont' is no feature of schema 'card'" in said
    assert "\n" not in said
    assert before.version in said
    assert file.current is before
    assert registry.get_sample_value("fraud_rules_file_broken") == 1
    assert registry.get_sample_value("fraud_rules_files_refused_total") == 1

    file.take(SHADOW)

    assert registry.get_sample_value("fraud_rules_file_broken") == 0
    assert file.current.version == before.version


def test_a_file_that_went_away_keeps_the_rules(path: Path) -> None:
    counts = WorkerCounts(schema="card")
    file = RulesFile(Settings(rules=str(path)), CARD, counts)
    before = file.current
    path.unlink()
    with pytest.raises(RulesError) as gone:
        read_rules(path)

    file.take(gone.value)

    assert file.current is before
    assert counts.rules_are_broken


def test_a_worker_does_not_start_with_a_broken_file(path: Path) -> None:
    path.write_text("[[rule]")

    with pytest.raises(RulesError, match=f"rules {path}: "):
        RulesFile(Settings(rules=str(path)), CARD, WorkerCounts(schema="card"))

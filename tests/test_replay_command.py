"""What `fraudstream replay` answers beyond its measure: models side by side, what-if, segments."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import INTERRUPTED
from pipeline.durations import DAY_MS
from pipeline.engine import Decisions
from pipeline.features import FeatureKernel
from pipeline.replay import Replay, ReplayOptions
from pipeline.settings import Settings
from producers.datasets import read_events
from producers.replay_command import replay
from tests.strategies import CARD, traffic
from tests.waiting import wait_until

SCRIPT = Path(sys.executable).parent / "fraudstream"
EVENTS = 1_000

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give ten days of events with a region that is no feature, and the kinds of fraud."""
    batch = traffic(5, EVENTS)
    batch = batch.take(np.argsort(batch.event_time_ms, kind="stable"))
    is_fraud = (batch.amount_minor > 4000).astype(np.int64)
    frame = pd.DataFrame(
        {
            "transaction_id": batch.transaction_id,
            "event_time": batch.event_time_ms,
            "card_id": batch.keys[0],
            "terminal_id": batch.keys[1],
            "amount": batch.amount_minor / 100,
            "is_fraud": is_fraud,
            "scenario": is_fraud * (1 + (batch.amount_minor > 6000)),
            "region": np.where(np.arange(EVENTS) % 3 == 0, "north", "south"),
        }
    )
    path = tmp_path_factory.mktemp("replay") / "events.parquet"
    frame.to_parquet(path)
    return path


@pytest.fixture
def run(file: Path) -> Run:
    def call(*flags: str, **settings: object) -> Result:
        arguments = [str(file), "--label-delay", "1d", *flags]
        return CliRunner().invoke(
            replay, arguments, obj=Settings(**settings), catch_exceptions=True
        )  # type: ignore[arg-type]

    return call


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_models_run_side_by_side_and_each_says_what_it_cost(run: Run) -> None:
    found = answer(run("--json", "--models", "logistic,additive"))

    assert (found["model"], list(found["models"])) == ("logistic", ["logistic", "additive"])
    assert found["average_precision"] == found["models"]["logistic"]["average_precision"]
    assert [cost["model"] for cost in found["costs"]] == ["logistic", "additive"]
    assert all(0 < cost["seconds"] < found["seconds"] for cost in found["costs"])
    assert {part["model"] for part in found["features"]} == {"logistic", "additive"}
    assert {weight["model"] for weight in found["weights"]} == {"logistic", "additive"}


def test_a_model_alone_has_no_challenger(run: Run) -> None:
    assert list(answer(run("--json", "--models", "additive"))["models"]) == ["additive"]


def test_every_number_has_an_interval_and_the_table_shows_it(run: Run) -> None:
    found = answer(run("--json", "--alerts-a-day", "5"))
    text = run("--alerts-a-day", "5").stdout

    for name, interval in found["intervals"]["additive"].items():
        assert interval["low"] <= interval["high"], name
    low, high = found["intervals"]["additive"]["average_precision"].values()
    assert f"{found['average_precision']:.4f} ({low:.4f}-{high:.4f})" in text
    assert found["alerts_a_day"] == 5


def test_thresholds_are_asked_and_swept(run: Run) -> None:
    found = answer(run("--json", "--what-if", "0.1:0.5", "--what-if", "0.2"))

    first, second = found["what_if"]
    assert (first["review_score_min"], first["decline_score_min"]) == (0.1, 0.5)
    assert (second["review_score_min"], second["decline_score_min"]) == (0.2, 0.7)
    assert first["frauds"] == second["frauds"] == found["frauds"]
    assert first["reviewed"] + first["declined"] >= second["reviewed"] + second["declined"]
    assert len(found["sweep"]) > 3
    assert "0.1 : 0.5" in run("--what-if", "0.1:0.5").stdout


def test_a_column_that_is_no_feature_is_judged_by(run: Run) -> None:
    found = answer(run("--json", "--segment", "region", "--models", "additive"))

    north, south = sorted(found["segments"], key=lambda item: str(item["name"]))
    assert (north["name"], north["events"], south["events"]) == ("north", 334, 666)
    assert north["frauds"] + south["frauds"] == found["frauds"]
    assert north["alerts"] + south["alerts"] == (
        found["actions"]["review"] + found["actions"]["decline"]
    )
    assert "region north" in run("--segment", "region").stdout


def test_scenarios_of_the_file_are_judged(run: Run) -> None:
    found = answer(run("--json", "--models", "additive"))

    assert [item["scenario"] for item in found["scenarios"]] == ["1", "2"]
    assert sum(item["frauds"] for item in found["scenarios"]) == found["frauds"]
    caught = sum(item["caught_in_top"] for item in found["scenarios"])
    assert caught / found["frauds"] == pytest.approx(found["recall_in_top_frauds"])


@pytest.mark.parametrize("scheme", ["cross", "split", "bootstrap"])
def test_folds_give_means_with_intervals(scheme: str, run: Run) -> None:
    found = answer(run("--json", "--folds", "3", "--fold-scheme", scheme))

    for model in ("additive", "logistic"):
        number = found["folds"][model]["average_precision"]
        assert number["low"] < number["mean"] < number["high"]
        assert number["mean"] == pytest.approx(np.mean(number["folds"]))
    assert answer(run("--json"))["models"] == found["models"]


def test_decisions_are_whole_enough_to_be_judged_and_made_again(
    run: Run, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "decisions.parquet"
    found = answer(run("--json", "--decisions", str(out), "--features"))
    rows = pq.read_table(out).to_pandas()
    decided: list[Decisions] = []
    batches = [(batch.transactions(), batch.is_fraud) for batch in read_events(file, CARD)]
    again = Replay(CARD, Settings(), ReplayOptions(DAY_MS), decided=decided.append)
    again.run(batches, lambda result: None)

    events, is_fraud = batches[0]
    assert rows["transaction_id"].tolist() == events.transaction_id
    assert rows["card_id"].tolist() == events.keys[0]
    assert rows["terminal_id"].tolist() == events.keys[1]
    assert rows["amount_minor"].tolist() == events.amount_minor.tolist()
    assert rows["is_fraud"].tolist() == (is_fraud == 1).tolist()
    assert rows["score"].tolist() == np.concatenate([part.scores for part in decided]).tolist()
    logistic = [scores for part in decided for scores in part.challengers.values()]
    assert rows["score_logistic"].tolist() == np.concatenate(logistic).tolist()
    reasons = [reasons for part in decided for reasons in part.reasons]
    assert [[tuple(item.values()) for item in row] for row in rows["reasons"]] == reasons
    names = [f"feature_{name}" for name in FeatureKernel(CARD).names]
    features = np.concatenate([part.features for part in decided])
    assert rows[names].to_numpy().tobytes() == np.ascontiguousarray(features).tobytes()
    assert rows["label_offset"].max() == found["labels"]["learned"]


def test_features_stay_away_unless_they_are_wanted(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "decisions.parquet"

    answer(run("--json", "--decisions", str(out)))

    assert not [name for name in pq.read_schema(out).names if name.startswith("feature_")]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--segment", "planet"), "--segment 'planet': neither a category of schema 'card'"),
        (("--what-if", "high"), "--what-if: expected REVIEW or REVIEW:DECLINE"),
        (("--models", "additive,additive"), "--models: expected names that differ"),
        (("--models", ","), "--models: expected names that differ"),
        (("--models", "absent"), "no model 'absent'"),
        (("--features",), "--features needs --decisions"),
        (("--folds", "1"), "1 is not in the range"),
    ],
)
def test_what_cannot_be_asked_is_refused(flags: tuple[str, ...], said: str, run: Run) -> None:
    result = run(*flags)

    assert result.exit_code != 0
    assert said in f"{result.output} {result.exception}"


def test_ctrl_c_leaves_an_answer_and_files_of_the_same_events(file: Path, tmp_path: Path) -> None:
    decisions = tmp_path / "decisions.parquet"
    process = subprocess.Popen(
        [
            SCRIPT, "replay", file, "--json", "--folds", "4",
            "--decisions", decisions, "--report", tmp_path / "report.html",
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    # The file is opened right before the first event is decided.
    wait_until(decisions.exists, "the file of decisions is open", seconds_max=120)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)

    assert process.returncode == INTERRUPTED, err
    found = json.loads(out)
    assert found["finished"] is False
    assert 0 < found["events"] < EVENTS
    assert found["events"] == pq.read_table(decisions).num_rows
    assert found["events_measured"] == found["events"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Partial: the run was interrupted." in page
    assert "Traceback" not in err


# Rules beside the model.

RULES = """
[[rule]]
code = "RULE_LARGE"
action = "decline"
state = "{state}"
when = ["amount >= 60.01"]
"""


@pytest.mark.parametrize("state", ["act", "shadow"])
def test_a_rule_has_its_hits_precision_and_money(run: Run, tmp_path: Path, state: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(RULES.format(state=state))
    plain = answer(run("--json"))
    found = answer(run("--json", rules=str(path)))
    table = run(rules=str(path)).stdout

    [row] = found["rules"]
    assert (row["rule"], row["genuine"], row["genuine_minor"]) == ("RULE_LARGE", 0, 0)
    assert row["hits"] == row["frauds"] > 0
    assert row["amount_minor"] == row["fraud_minor"] > 6000 * row["hits"]
    assert f"{row['fraud_minor'] / 100:,.2f}" in table
    # A rule changes what is done, and never a score.
    assert found["log_loss"] == plain["log_loss"]
    assert (found["actions"] == plain["actions"]) == (state == "shadow")
    # Without a file of its own those shipped for the schema watch.
    assert {item["hits"] for item in plain["rules"]} == {0}

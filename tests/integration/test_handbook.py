"""The Handbook benchmark in short: half a day of the file, at 3,600 times its speed."""

from dataclasses import replace

import pytest

from benchmarks.handbook import Plan, handbook_settings, run_on, verified
from pipeline.durations import HOUR_MS
from pipeline.settings import Settings
from stack.servers import Endpoints
from tests.proofs import data_file

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENTS = 6_000


def test_half_a_day_of_the_handbook_is_accounted_for(stack: Endpoints, settings: Settings) -> None:
    plan = Plan(
        file=data_file("handbook.parquet"),
        days=1,
        events=EVENTS,
        speedup=3_600.0,
        label_delay_ms=3 * HOUR_MS,
        after=[verified],
    )

    found = run_on(handbook_settings(replace(settings, challengers="none")), stack, plan)

    assert found["checks"] == dict.fromkeys(found["checks"], True), found
    assert found["verified"]["equal"] == EVENTS
    assert found["decided"] == found["labels"] == found["examples_distinct"] == EVENTS
    assert found["versions_that_decided"] > 10
    live, replayed = (found["quality"][way]["additive"] for way in ("live", "replay"))
    assert live["events"] == replayed["events"] > EVENTS / 4
    assert live["frauds"] == replayed["frauds"]
    assert live["log_loss"] == pytest.approx(replayed["log_loss"], abs=0.01)

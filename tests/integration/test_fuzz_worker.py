"""Mutated messages through a real worker: what is published is decided or a dead letter."""

from dataclasses import replace

import pytest

from benchmarks.fuzz import through_worker
from pipeline.settings import Settings
from stack.servers import Endpoints
from tests.integration.processes import Processes

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MESSAGES = 3_000


def test_mutated_messages_are_all_accounted_for(settings: Settings, stack: Endpoints) -> None:
    ours = replace(settings, event_age_days_max=0.0)
    with Processes(ours) as processes:
        [worker] = processes.ready("worker")
        found = through_worker(ours, stack, worker.started, 2, MESSAGES)

    assert [name for name, holds in found["checks"].items() if not holds] == []
    assert found["decided"] > 200
    assert sum(found["dead_letters"].values()) > 1_000

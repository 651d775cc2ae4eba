"""Real servers for the tests: started once a session, empty for every test that asks for them.

They end with the session however it ends, since they are attached to it.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings as of_hypothesis

from pipeline.settings import Settings
from stack.servers import Endpoints, Stack
from tests.proofs import NOT_MADE
from tests.resetting import reset
from tests.secured import Secured, secured_servers

# Every run tries the same examples, and a slow machine fails none of them.
of_hypothesis.register_profile("repeatable", deadline=None, derandomize=True)
of_hypothesis.load_profile("repeatable")

# A broker that lives for some minutes does better without its second compiler: that takes a core of
# its own for the first twenty seconds of each.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

logger = logging.getLogger(__name__)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """Kafka and Redis for the whole session."""
    settings = Settings(state_dir=str(tmp_path_factory.mktemp("stack")))
    with Stack(settings, attached=True, say=logger.info) as endpoints:
        yield endpoints


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Kafka and Redis with TLS, passwords and least privileges, for the whole session."""
    with secured_servers(tmp_path_factory.mktemp("secured")) as servers:
        yield servers


@pytest.fixture
def settings(stack: Endpoints, tmp_path: Path) -> Settings:
    """Settings for empty servers with fresh topics; the state directory is the test's own.

    A test that wants another number of partitions calls `reset` again with its own settings.
    """
    ours = replace(
        Settings(mode="act"),
        state_dir=str(tmp_path),
        kafka_servers=stack.kafka_servers,
        redis_url=stack.redis_url,
    )
    reset(stack, ours)
    return ours


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the proofs that could not be made on this machine."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [(report.nodeid, str(report.longrepr[2])) for report in skipped]
    found = [(test, why.split(NOT_MADE)[1]) for test, why in reasons if NOT_MADE in why]
    if found:
        terminalreporter.section("proofs not made")
        for test, why in found:
            terminalreporter.write_line(f"{test}: {why}")

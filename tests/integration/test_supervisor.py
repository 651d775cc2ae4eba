"""`fraudstream up --workers`: what ends is started again, and nothing is left at the end."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.settings import Settings
from pipeline.topics import TRANSACTIONS
from stack.processes import identify
from stack.services import PROGRAM
from tests.integration.processes import READY, Log, key_of, keyed, send
from tests.strategies import event_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

START_SECONDS_MAX = 90.0
STARTED = re.compile(r"(\S+): starting")


@contextmanager
def supervised(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `fraudstream up --workers 1` on the servers of the tests."""
    flags = [
        f"--{name.replace('_', '-')}={getattr(settings, name)}"
        for name in ("state_dir", "kafka_servers", "redis_url")
    ]
    command = [sys.executable, "-c", PROGRAM, "up", "--workers", "1", *flags]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            yield process
        finally:
            process.kill()


def is_ready(log: Path) -> bool:
    """Say whether the process of a log answers that it is ready."""
    found = READY.search(log.read_text()) if log.exists() else None
    if found is None:
        return False
    with urllib.request.urlopen(found[1].replace("/metrics", "/ready"), timeout=5) as answer:
        return answer.status == 200 and answer.read() == b'{"problems":[]}'


def test_what_ends_is_started_again_until_the_end(settings: Settings, tmp_path: Path) -> None:
    said, worker_log = tmp_path / "said", tmp_path / "worker-2.log"
    card = key_of(1, settings)
    with supervised(settings, said) as process:
        wait_until(lambda: is_ready(worker_log), "a worker is ready", seconds_max=START_SECONDS_MAX)
        [worker] = [
            child for child in psutil.Process(process.pid).children() if "worker" in child.cmdline()
        ]
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: "worker-2 has stopped (exit code -9)" in said.read_text(), "it is seen")
        send(settings, TRANSACTIONS, [keyed(settings, card, event_bytes(card_id=card))])
        log = Log(settings, "decisions")
        wait_until(lambda: len(log.read()) == 1, "another decides", seconds_max=START_SECONDS_MAX)
        log.close()
        wait_until(lambda: is_ready(worker_log), "it is ready")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0

    assert STARTED.findall(said.read_text()) == ["trainer-0", "monitor-1", "worker-2", "worker-2"]
    assert (tmp_path / "worker-2.previous.log").exists()
    wait_until(lambda: not any(identify(child.pid) for child in children), "nothing is left")

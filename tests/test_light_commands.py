"""What a command loads before it does anything: seconds, if it is more than it needs."""

import json
import subprocess
import sys

import pytest

HEAVY = ("pandas", "pyarrow", "sklearn", "scipy.stats", "lightgbm", "altair", "river.linear_model")
COMPILER = ("numba", "models.compiled")
CLIENTS = ("kafka", "aiokafka", "faust", "redis")

RUN = """
import json, sys
from pipeline.cli import main
sys.argv = ["fraudstream", *sys.argv[1:]]
try:
    main()
finally:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""


def loaded(*arguments: str) -> set[str]:
    """Give the modules that are loaded when a command has ended."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_without_a_command_nothing_is_loaded(option: str) -> None:
    found = loaded(option)

    assert "pipeline.cli" in found
    assert not found.intersection((*HEAVY, *COMPILER, *CLIENTS, "numpy", "rich"))


@pytest.mark.parametrize("command", ["keys", "up", "down", "status", "check"])
def test_the_servers_are_looked_after_without_models(command: str) -> None:
    found = loaded(command, "--help")

    assert not found.intersection((*HEAVY, *COMPILER, "aiokafka", "faust"))


@pytest.mark.parametrize(
    "command", ["mode", "block", "lists", "alerts", "label", "redrive", "simulate", "publish"]
)
def test_operators_and_analysts_wait_for_no_compiler(command: str) -> None:
    found = loaded(command, "--help")

    assert "numpy" in found
    assert not found.intersection((*HEAVY, *COMPILER, "aiokafka", "faust"))


def test_a_replay_without_a_report_loads_what_it_measures_with_and_no_more() -> None:
    found = loaded("replay", "--help")

    assert {"numba", "pyarrow"} <= found
    assert not found.intersection(
        (*CLIENTS, "sklearn", "scipy.stats", "scipy.spatial", "river.drift", "lightgbm", "altair")
    )


def test_a_worker_loads_what_decides_and_no_more() -> None:
    found = loaded("worker", "--help")

    assert {"faust", "numba"} <= found
    assert not found.intersection(HEAVY)

"""The table of mutations fits the source, and a mutant is killed in a copy.

`make mutants` judges all of them.
"""

import json
import subprocess
import sys

import pytest

from tests.mutants import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_is_applied_once_and_its_test_is_there(mutation: Mutation) -> None:
    source = (ROOT / mutation.path).read_text(encoding="utf-8")
    path, _, test = mutation.test.partition("::")

    assert mutation.applied(source) != source
    assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")


def test_mutants_are_killed_in_a_copy() -> None:
    names = ["bounds of the log", "rule R after an assignment"]
    options = [word for name in names for word in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--json", *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]

    assert {item["mutation"]: item["verdict"] for item in found} == dict.fromkeys(names, "killed")
    assert done.returncode == 0, done.stderr

"""`fraudstream keys`: what it says, and what it leaves in the folder."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.errors import KeyFileError
from pipeline.keys import LABEL_SOURCES
from pipeline.settings import Settings
from stack.keys_command import keys

OWNERS = [*LABEL_SOURCES, "models", "operator"]


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(keys, arguments, obj=Settings(keys_dir=str(folder)))


def lines(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_init_makes_what_is_missing_and_says_so(tmp_path: Path) -> None:
    assert [row["of"] for row in lines(run(tmp_path, "init", "--json"))] == OWNERS
    assert lines(run(tmp_path, "init", "--json")) == []
    assert run(tmp_path, "init").stdout == f"nothing to make: all keys are in {tmp_path}\n"


def test_init_of_some_sources_makes_no_other(tmp_path: Path) -> None:
    made = lines(run(tmp_path, "init", "--source", "analyst", "--source", "chargeback", "--json"))

    assert [row["of"] for row in made] == ["analyst", "chargeback"]
    assert not (tmp_path / "private").exists()
    assert run(tmp_path, "init", "--source", "matured").exit_code == 2


def test_a_key_is_rotated_listed_and_retired(tmp_path: Path) -> None:
    run(tmp_path, "init")
    for owner in ("analyst", "models"):
        [row] = lines(run(tmp_path, "rotate", owner, "--json"))
        assert row["done"] == "made"

    listed = lines(run(tmp_path, "list", "--json"))
    of_two = [row for row in listed if row["of"] in ("analyst", "models")]
    assert [row["role"] for row in of_two] == ["checks", "signs"] * 2
    assert [row["folders"] for row in of_two] == [["labels"]] * 2 + [["private", "public"]] * 2
    assert str(of_two[0]["key"]) in run(tmp_path, "list").stdout

    said = run(tmp_path, "retire", str(of_two[0]["key"]))
    assert said.stdout == f"retired {of_two[0]['key']} in {tmp_path}\n"
    assert len(lines(run(tmp_path, "list", "--json"))) == len(listed) - 1
    refused = run(tmp_path, "retire", str(of_two[1]["key"]))
    assert isinstance(refused.exception, KeyFileError)


def test_the_trainer_elsewhere_is_seen_to_sign_nothing_here(tmp_path: Path) -> None:
    run(tmp_path, "init", "--source", "models")
    for file in (tmp_path / "private").iterdir():
        file.unlink()

    assert [row["role"] for row in lines(run(tmp_path, "list", "--json"))] == ["checks"]


@pytest.mark.parametrize("command", ["init", "list", "rotate", "retire"])
def test_every_command_has_a_help(command: str) -> None:
    result = CliRunner().invoke(keys, [command, "--help"])

    assert result.exit_code == 0
    assert len(result.stdout) > 150

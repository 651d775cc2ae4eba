"""`fraudstream rules`: what it lists, and what it says of a file."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from consumers.rules_command import check, list_rules
from pipeline.errors import RulesError
from pipeline.settings import Settings

RULE = '[[rule]]\ncode = "RULE_A"\naction = "review"\nstate = "act"\nwhen = ["amount >= 5"]\n'


def test_the_rules_of_the_settings_are_listed() -> None:
    run = CliRunner()

    text = run.invoke(list_rules, [], obj=Settings()).stdout
    rows = [
        json.loads(line)
        for line in run.invoke(list_rules, ["--json"], obj=Settings()).stdout.splitlines()
    ]

    assert [row["rule"] for row in rows][:4] == [
        "RULE_CARD_TESTING_TERMINAL", "RULE_CARD_TESTING_CARD",
        "RULE_DECLINES_TERMINAL", "RULE_DECLINES_CARD",
    ]  # fmt: skip
    assert {row["state"] for row in rows} == {"shadow", "fallback"}
    assert "terminal_cards_1h >= 10" in rows[0]["when"]
    assert all(row["rule"] in text for row in rows)
    assert rows[0]["rules_version"] in text


def test_a_good_file_is_named_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RULE)

    answer = CliRunner().invoke(check, [str(path)], obj=Settings())

    assert answer.exit_code == 0
    assert "1 rules (1 act, 0 shadow, 0 fallback), version rules@r" in answer.stdout


@pytest.mark.parametrize(
    ("text", "said"), [(RULE.replace("amount", "amuont"), "rule 1 .* 'amuont' is no feature"),
                       (None, "cannot be read")]
)  # fmt: skip
def test_a_bad_file_is_an_error_with_its_place(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)

    answer = CliRunner().invoke(check, [str(path)], obj=Settings())

    assert isinstance(answer.exception, RulesError)
    assert answer.exception.args
    with pytest.raises(RulesError, match=said):
        raise answer.exception

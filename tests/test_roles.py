"""The page about least privileges says what the table of roles says."""

from pathlib import Path

import pytest

from stack.roles import ROLES, privileges, sample_commands

PAGE = Path(__file__).parent.parent / "docs" / "security.md"


def test_the_page_shows_the_table() -> None:
    assert privileges() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ROLES)
def test_every_command_of_a_role_is_tried_once_and_every_key(name: str) -> None:
    role = ROLES[name]

    tried = list(sample_commands(role))

    assert {command for command, _ in tried} | {"multi", "discard"} >= set(role.commands)
    assert all("K" not in words for _, words in tried)
    keys = {words[1] for command, words in tried if command == "exists"}
    assert len(keys) == (len(role.keys) if "exists" in role.commands else 0)

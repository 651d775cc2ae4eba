"""What the documents say is what the code has."""

import re
from pathlib import Path

from pipeline.cli import COMMANDS
from pipeline.settings import ENVIRONMENT_PREFIX, SETTINGS
from stack.reference import reference

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "dashboards").glob("*.md")),
]


def test_the_reference_is_made_from_the_tables() -> None:
    assert (ROOT / "docs/reference.md").read_text() == reference(), "run `make docs`"


def test_every_command_that_the_documents_show_exists() -> None:
    shown = {
        command
        for document in DOCUMENTS
        for command in re.findall(r"^fraudstream ([a-z]+)", document.read_text(), re.MULTILINE)
    }

    assert shown
    assert shown <= set(COMMANDS)


def test_every_variable_that_the_documents_show_is_a_setting() -> None:
    known = {ENVIRONMENT_PREFIX + setting.name.upper() for setting in SETTINGS}
    shown = {
        variable
        for document in DOCUMENTS
        for variable in re.findall(r"\bFRAUD_[A-Z_]+\b", document.read_text())
    }

    assert shown
    assert shown <= known


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    broken = [
        f"{document.name}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text())
        if not (document.parent / target).exists()
    ]

    assert not broken

"""The reference of commands, settings, features, reason codes and metrics, from their tables.

`python -m stack.reference` prints `docs/reference.md`; a test compares the two.
"""

from collections.abc import Iterable, Sequence

import click

from pipeline.cli import COMMANDS
from pipeline.errors import REASONS
from pipeline.features import feature_table
from pipeline.metric_table import METRICS
from pipeline.schema import load_schema
from pipeline.settings import ENVIRONMENT_PREFIX, SETTINGS
from pipeline.verdicts import LABEL_PATHS, SOURCE_RANKS


def reference() -> str:
    """Give the whole reference as Markdown."""
    parts = (
        "# Reference\n\nMade by `make docs` from the tables in the code.\n",
        "## Commands\n",
        _table(("command", "what it does"), _commands()),
        "## Settings\n\nEach is a flag, a variable and a key of `fraudstream.toml`.\n",
        _table(("key", "variable", "default", "meaning"), _settings()),
        "## Features of the card schema\n\nThose of another are named after its entities.\n",
        _table(("feature", "meaning", "unit", "reason code"), _features()),
        "## Dead letters\n\nReasons: " + ", ".join(f"`{reason}`" for reason in REASONS) + ".\n",
        "## Labels\n\nWhat becomes of one: "
        + ", ".join(f"`{path}`" for path in LABEL_PATHS)
        + ".\n",
        _table(("source", "rank: a later label of an equal or higher one corrects"), _sources()),
        "## Metrics\n",
        _table(("process", "metric", "type", "labels", "meaning"), _metrics()),
    )
    return "\n".join(parts)


def _commands() -> Iterable[Sequence[str]]:
    return ((f"`{name}`", entry.text) for name, entry in COMMANDS.items())


def _settings() -> Iterable[Sequence[str]]:
    for item in SETTINGS:
        variable = ENVIRONMENT_PREFIX + item.name.upper()
        yield f"`{item.name}`", f"`{variable}`", f"`{item.default!r}`", item.metadata["help"]


def _features() -> Iterable[Sequence[str]]:
    for item in feature_table(load_schema("card")):
        yield f"`{item.name}`", item.meaning, item.unit, f"`{item.reason_code}`"


def _sources() -> Iterable[Sequence[str]]:
    return ((f"`{source}`", str(rank)) for source, rank in SOURCE_RANKS.items())


def _metrics() -> Iterable[Sequence[str]]:
    for row in METRICS:
        yield row.process, f"`{row.name}`", row.kind, ", ".join(row.labels), row.help


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)

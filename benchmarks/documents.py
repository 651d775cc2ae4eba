"""Tables of documents that are made from results: each stands between two markers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def put_tables(path: Path, tables: Iterable[tuple[str, str]]) -> None:
    """Put tables, given by their names, between their markers in a document."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables:
        start, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        before, found, rest = text.partition(start)
        assert found and end in rest, f"{path.name} has no place for table {name!r}"
        text = before + start + table + end + rest.partition(end)[2]
    path.write_text(text, encoding="utf-8")


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Give a table of Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)

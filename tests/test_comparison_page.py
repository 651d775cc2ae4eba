"""The page of a comparison, looked at as the report of a replay is, and its command."""

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from pipeline.comparison.columns import ComparisonLog
from pipeline.comparison.compare import Comparison, compare
from pipeline.comparison.words import notes, side_table, verdict
from pipeline.incumbent import Incumbent
from pipeline.mistakes import Costs
from pipeline.records import encode_record
from pipeline.reporting.comparison import render_comparison
from pipeline.settings import Settings
from producers.comparison_files import read_decision_file
from producers.replay_command import replay
from stack.compare_command import compare_command
from tests.browser import Seen, look
from tests.strategies import CARD, decision, example
from tests.test_comparison import BY_HAND, columns

PAGE_BYTES_MAX = 2_000_000
PLOTS = ("overlap", "value-detected", "segment-amount")
SIMULATED = (
    "--simulate",
    "--incumbent",
    "--customers",
    "150",
    "--terminals",
    "200",
    "--days",
    "20",
)

Run = Callable[..., Result]


def run(command: object, *arguments: object, **settings: object) -> Result:
    given = Settings(challengers="none", **settings)  # type: ignore[arg-type]
    return CliRunner().invoke(command, [str(item) for item in arguments], obj=given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def decisions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the decisions of a replay beside an incumbent."""
    path = tmp_path_factory.mktemp("compare") / "decisions.parquet"
    result = run(replay, *SIMULATED, "--fraud-scale", "8", "--decisions", path)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def found(decisions: Path) -> Comparison:
    log = ComparisonLog()
    read_decision_file(log, decisions, CARD, ("amount",), truth=True, show=lambda count: None)
    return compare(log.columns(), Costs(1_000.0, 0.0))


@pytest.fixture(scope="module")
def page(found: Comparison) -> str:
    return render_comparison(found, CARD)


def test_the_page_is_small_whole_and_asks_for_nothing(page: str, found: Comparison) -> None:
    assert len(page.encode()) < PAGE_BYTES_MAX
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "default-src 'none';" in page
    loading = re.findall(
        r'<[^>]+ (?:src|href|srcset)="([^"]*)"', page.split("<script", maxsplit=1)[0]
    )
    assert [value for value in loading if not value.startswith(("#", "data:,"))] == []
    assert render_comparison(found, CARD) == page


def test_the_page_says_what_the_terminal_says(page: str, found: Comparison) -> None:
    assert html.escape(verdict(found)) in page
    assert all(
        html.escape(note, quote=False) in page.replace("&#39;", "'") for note in notes(found)
    )
    for row in side_table("", found.equal_budget, 2).rows:
        cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
        assert f'<tr><th scope="row">{row[0]}</th>{cells}</tr>' in page


def test_every_plot_has_a_text_and_its_numbers(page: str) -> None:
    assert tuple(re.findall(r'data-plot="([^"]+)" role="img"', page)) == PLOTS
    assert page.count("<summary>The numbers</summary>") == len(PLOTS)


def test_a_value_of_a_segment_is_text_and_never_markup() -> None:
    given = columns(BY_HAND)
    column = replace(given.segments["channel"], names=("<b>", "shop"))
    marked = replace(given, segments={"channel": column})

    page = render_comparison(compare(marked, Costs(0.0, 0.0)), CARD)

    assert "<b>" not in page.split("<body>")[1].split('<script type="application/json"')[0]
    assert "&lt;b&gt;" in page


def test_a_comparison_without_a_labelled_fraud_has_a_page() -> None:
    unlabelled = [(*row[:5], None, row[6]) for row in BY_HAND]

    page = render_comparison(compare(columns(unlabelled), Costs(0.0, 0.0)), CARD)

    assert "nothing can be said" in page
    assert 'class="plot"' not in page


@pytest.fixture(scope="module")
def opened(page: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "comparison.html"
    path.write_text(page, encoding="utf-8")
    return {"light": look(path, folder), "telephone": look(path, folder, width=390)}


@pytest.mark.integration
@pytest.mark.parametrize(("view", "width"), [("light", 1280), ("telephone", 500)])
def test_the_browser_draws_every_plot_and_has_nothing_to_complain_of(
    opened: dict[str, Seen], view: str, width: int
) -> None:
    seen = opened[view]

    drawn = re.findall(r'data-plot="([^"]+)"[^>]*data-state="drawn"', seen.dom)
    widths = [int(found) for found in re.findall(r"<svg[^>]* width=\"(\d+)", seen.dom)]
    assert tuple(drawn) == PLOTS
    assert (seen.console, seen.asked) == ([], [])
    assert max(widths) <= width - 2 * 14 - 2 * 12


def test_the_command_answers_in_words_in_json_and_as_a_page(
    decisions: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    told = run(compare_command, "--decisions", decisions, "--segment", "card", "--html", page)
    answered = run(compare_command, "--decisions", decisions, "--segment", "card", "--json")

    assert (told.exit_code, answered.exit_code) == (0, 0), told.output
    found = json.loads(answered.stdout)
    assert " ".join(found["verdict"].split()) in " ".join(told.stdout.split())
    assert found["equal_budget"]["we"]["alerts"] == found["equal_budget"]["they"]["alerts"] > 0
    assert found["equal_budget"]["frauds"] >= 10
    assert {item["field"] for item in found["segments"]} == {"card"}
    assert "We and the incumbent" in page.read_text()


def test_a_period_is_cut_by_event_time(decisions: Path) -> None:
    whole = run(compare_command, "--decisions", decisions, "--json")
    days = ("--from", "2018-04-05", "--to", "2018-04-08")
    part = run(compare_command, "--decisions", decisions, *days, "--json")

    assert json.loads(part.stdout)["equal_budget"]["days"] == 3
    assert json.loads(whole.stdout)["equal_budget"]["days"] == 20


def test_records_of_the_topics_may_be_files(tmp_path: Path) -> None:
    said = Incumbent(0.9, "review")
    records = [decision(f"t{number}", incumbent=said) for number in range(3)]
    (tmp_path / "d.jsonl").write_bytes(b"\n".join(map(encode_record, records)))
    (tmp_path / "l.jsonl").write_bytes(encode_record(example(0, transaction_id="t1")) + b"\n")
    (tmp_path / "l.csv").write_text("transaction_id,is_fraud\nt1,1\nt2,0\nt0,\n")

    for labels, labelled in (("l.jsonl", 1), ("l.csv", 2)):
        files = ("--decisions", tmp_path / "d.jsonl", "--labels", tmp_path / labels)
        found = json.loads(run(compare_command, *files, "--json").stdout)
        assert found["acted"]["labelled"] == labelled
        assert found["acted"]["they"]["caught_minor"] == 950


@pytest.mark.parametrize(
    ("name", "content", "labels", "expected"),
    [
        ("d.jsonl", encode_record(decision("t1")), None, "none of 1 decisions says what an incum"),
        ("d.jsonl", b"{}\n", None, "there is no decision of this period"),
        ("d.csv", b"a,b\n", None, "decisions must be a .parquet or .jsonl file"),
        ("d.jsonl", b"{}\n", b"id,x\n1,2\n", "column 'transaction_id' of labels is missing"),
        ("d.jsonl", b"{}\n", b"transaction_id,is_fraud\nt1,maybe\n", "row 1, column 'is_fraud'"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    tmp_path: Path, name: str, content: bytes, labels: bytes | None, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    arguments: list[object] = ["--decisions", tmp_path / name]
    if labels is not None:
        (tmp_path / "l.csv").write_bytes(labels)
        arguments += ["--labels", tmp_path / "l.csv"]

    result = run(compare_command, *arguments)

    assert expected in str(result.exception)


def test_labels_of_a_file_need_decisions_of_one() -> None:
    result = run(compare_command, "--labels", __file__)

    assert result.exit_code == 2
    assert "--labels needs --decisions" in result.output


def test_the_json_is_the_comparison(found: Comparison) -> None:
    again = msgspec.convert(msgspec.to_builtins(found), Comparison)

    assert again == found

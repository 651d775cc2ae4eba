"""The page of a report: one file, the same bytes each time, and what a real browser makes of it."""

import html
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.features import feature_table
from pipeline.quality.findings import SCENARIO, RunWatch, findings_of
from pipeline.quality.groups import Groups
from pipeline.quality.overfitting import OverfittingGauge
from pipeline.quality.what_if import Thresholds
from pipeline.replay import Labelled, Learned, Replay, ReplayOptions
from pipeline.reporting.page import render
from pipeline.reporting.report import make_report
from pipeline.reporting.run_log import RunLog
from pipeline.reporting.values import Report
from pipeline.reporting.words import quality_table
from pipeline.settings import Settings
from producers.simulator import Drift, SimulatorOptions, simulate
from tests.browser import Seen, look
from tests.strategies import CARD

PAGE_BYTES_MAX = 2_000_000
PLOTS = (
    "average-precision", "log-loss", "brier", "labels",
    "learning-curve", "overfitting", "features", "weights-additive", "weights-logistic",
    "precision-recall", "calibration", "score-counts", "what-if",
    "scenarios", "segment-bank--b-",
    "drift", "score-psi", "feature-psi", "actions", "label-delay",
)  # fmt: skip
OPTIONS = ReplayOptions(label_delay_ms=3 * 86_400_000)


def reported(batches: Iterator[Labelled] | Sequence[Labelled]) -> Report:
    settings = Settings(review_score_min=0.1)
    names = [feature.name for feature in feature_table(CARD)]
    log = RunLog(names, label_delay_ms=OPTIONS.label_delay_ms, reference_from_ms=None)
    watch = RunWatch(OverfittingGauge(), Groups(), thresholds=(Thresholds(0.2, 0.6),))

    def learned(found: Learned) -> None:
        log.add_learned(found)
        watch.gauge.add(found)

    run = Replay(
        CARD, settings, OPTIONS,
        decided=log.add_decisions, learned=learned,
    )  # fmt: skip

    def seen() -> Iterator[Labelled]:
        for batch, is_fraud in batches:
            watch.groups.add(SCENARIO, ["1"] * len(batch))
            watch.groups.add("bank <b>", [key[-1] for key in batch.keys[0]])
            yield batch, is_fraud

    run.run(seen(), lambda result: None)
    columns = run.scores.columns()
    findings = findings_of(run, settings, OPTIONS, watch)
    return make_report("a <b>.csv", CARD, settings, OPTIONS, run.result, columns, log, findings)


@pytest.fixture(scope="module")
def report() -> Report:
    options = SimulatorOptions(customers=600, terminals=600, days=36, drift=Drift(day=20), seed=1)
    return reported([(batch.transactions(), batch.is_fraud) for batch in simulate(options)])


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


class Elements(HTMLParser):
    """The elements of a page, with what they hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open.append(dict(attrs).get("id") or tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data


def test_the_page_is_small_and_whole(page: str) -> None:
    assert len(page.encode()) < PAGE_BYTES_MAX
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")


def test_the_same_report_gives_the_same_bytes_in_another_process(
    report: Report, page: str, tmp_path: Path
) -> None:
    (tmp_path / "report").write_bytes(pickle.dumps(report))
    program = (
        "import pickle, sys, pathlib; from pipeline.reporting.page import render\n"
        "report = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "pathlib.Path(sys.argv[2]).write_text(render(report), encoding='utf-8')"
    )
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "report", tmp_path / "page"],
        check=True,
        cwd=Path(__file__).parent.parent,
    )

    assert (tmp_path / "page").read_text(encoding="utf-8") == page
    assert render(report) == page


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    elements = Elements(page).found
    loading = [
        (tag, value)
        for tag, attributes in elements
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "data", "action", "poster")
        and not str(value).startswith("#")
        and value != "data:,"
    ]

    assert not loading
    assert "@import" not in page
    [policy] = [found["content"] for tag, found in elements if found.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy


def test_every_plot_has_a_text_and_its_numbers(report: Report, page: str) -> None:
    found = Elements(page).found
    plots = [attributes for tag, attributes in found if "data-plot" in attributes]

    assert tuple(plot["data-plot"] for plot in plots) == PLOTS
    assert all(plot["role"] == "img" and len(plot["aria-label"] or "") > 40 for plot in plots)
    # The counts of scores stand in the table of the calibration; nothing may have been detected.
    assert page.count("<summary>The numbers</summary>") == len(PLOTS) - 1 - (not report.detections)


def test_axes_say_what_they_show(page: str) -> None:
    texts = Elements(page).texts
    for key in PLOTS:
        spec = json.loads(texts[f"spec-{key}"])
        titles = re.findall(r'"title": "([^"]+)"', json.dumps(spec))
        assert titles, key
        assert spec["width"] == "container"


def test_the_page_has_the_table_of_the_terminal(report: Report, page: str) -> None:
    table = quality_table(report.quality, report.findings.intervals)

    for row in table.rows:
        cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
        assert f'<tr><th scope="row">{row[0]}</th>{cells}</tr>' in page


def test_a_name_is_text_and_never_markup(page: str) -> None:
    assert "a <b>.csv" not in page
    assert html.escape("a <b>.csv") in page


def test_a_whole_run_is_not_called_partial(page: str) -> None:
    assert "Partial" not in page


@pytest.mark.parametrize("days", [0, 1, 5])
def test_an_interrupted_run_says_so_and_has_what_there_is(days: int) -> None:
    def interrupted() -> Iterator[Labelled]:
        world = SimulatorOptions(customers=50, terminals=50, days=max(days, 1), seed=1)
        if days:
            yield from ((batch.transactions(), batch.is_fraud) for batch in simulate(world))
        raise KeyboardInterrupt

    page = render(reported(interrupted()))

    assert "Partial: the run was interrupted." in page
    assert ('class="plot"' in page) == (days > 0)


# In a real browser.


@pytest.fixture(scope="module")
def opened(page: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """Give the page as it is seen in light, in dark and on a telephone."""
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return {
        "light": look(path, folder),
        "dark": look(path, folder, theme="dark"),
        "telephone": look(path, folder, width=390),
    }


VIEWS = ("light", "dark", "telephone")


@pytest.mark.integration
@pytest.mark.parametrize("view", VIEWS)
def test_the_browser_draws_every_plot(opened: dict[str, Seen], view: str) -> None:
    drawn = re.findall(
        r'<div class="plot[^>]*data-plot="([^"]+)"[^>]*data-state="drawn"', (opened[view].dom)
    )
    figures = opened[view].dom.split("<figure")[1:]
    marks = {
        key: len(
            re.findall(r"aria-roledescription=\"(?:bar|line mark|point|rect mark|circle)", figure)
        )
        for figure in figures
        for key in re.findall(r'data-plot="([^"]+)"', figure)
    }

    assert tuple(drawn) == PLOTS
    assert all(marks[key] > 0 for key in PLOTS), marks
    assert len(re.findall("<svg [^>]*class=.marks", opened[view].dom)) == len(PLOTS)
    assert 'aria-label="Average precision by' in opened[view].dom
    assert 'aria-label="Vega visualization"' not in opened[view].dom
    assert "NaN" not in opened[view].dom.split("<main>")[1].split('<script type="application')[0]


@pytest.mark.integration
@pytest.mark.parametrize("view", VIEWS)
def test_the_browser_has_nothing_to_complain_of(opened: dict[str, Seen], view: str) -> None:
    assert opened[view].console == []


@pytest.mark.integration
@pytest.mark.parametrize("view", VIEWS)
def test_the_page_asks_the_network_for_nothing(opened: dict[str, Seen], view: str) -> None:
    assert opened[view].asked == []


@pytest.mark.integration
def test_a_page_that_asks_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "asking.html"
    path.write_text(
        '<img src="http://pictures.invalid/a.png"><script>console.error("broken")</script>',
        encoding="utf-8",
    )

    seen = look(path, tmp_path)

    assert seen.asked == ["http://pictures.invalid/a.png"]
    assert any("broken" in line for line in seen.console)


@pytest.mark.integration
def test_light_and_dark_differ(opened: dict[str, Seen]) -> None:
    assert min(opened["light"].corner) > 200
    assert max(opened["dark"].corner) < 60


@pytest.mark.integration
def test_the_choice_of_the_reader_wins(page: str, tmp_path: Path) -> None:
    path = tmp_path / "chosen.html"
    path.write_text(page.replace("<html ", '<html data-theme="dark" '), encoding="utf-8")

    assert max(look(path, tmp_path).corner) < 60


@pytest.mark.integration
@pytest.mark.parametrize("view", VIEWS)
def test_no_plot_is_wider_than_its_place(opened: dict[str, Seen], view: str) -> None:
    # Chromium lays out no window narrower than 500 when it gives the document.
    available = {"light": 1280, "dark": 1280, "telephone": 500}[view]

    widths = [int(width) for width in re.findall(r"<svg[^>]* width=\"(\d+)", opened[view].dom)]

    assert len(widths) == len(PLOTS)
    assert max(widths) <= available - 2 * 14 - 2 * 12

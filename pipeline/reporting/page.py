"""A report as one HTML page that needs nothing else: no network, no server, no other file.

The page carries the plotting library (Vega, as `vl-convert` bundles it), its data and its style.
Its content security policy forbids every request and every script but those it came with, so a
name from a file can never run as code. The same report gives the same bytes.
"""

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files

import altair
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.durations import format_duration
from pipeline.reporting.drawing import CONFIG
from pipeline.reporting.figures import Figure
from pipeline.reporting.quality import quality_figures, threshold_figures
from pipeline.reporting.question_words import fold_table, rule_table
from pipeline.reporting.questions import (
    cause_figures,
    learning_figures,
    part_figures,
    what_if_figure,
)
from pipeline.reporting.stream import action_figures, drift_figures
from pipeline.reporting.values import Report
from pipeline.reporting.words import (
    Table,
    moment_text,
    number,
    period_text,
    quality_table,
    share_text,
)

_BUNDLE_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@dataclass(frozen=True, slots=True)
class Section:
    """Figures that answer one question."""

    key: str
    title: str
    figures: tuple[Figure, ...]
    tables: tuple[tuple[str, Table], ...] = ()


def render(report: Report) -> str:
    """Give the page."""
    return render_page(
        "report.html",
        facts=report.facts,
        lines=_facts(report),
        quality=quality_table(report.quality, report.findings.intervals),
        sections=_sections(report),
    )


def render_page(template: str, **values: object) -> str:
    """Give a page with its plotting library, style and script; `values` are the template's."""
    environment = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_packaged(name) for name in ("report.css", "report.js"))
    library = plotting_library()
    return environment.get_template(template).render(
        values,
        config=CONFIG,
        style=Markup(style),
        library=Markup(library),
        script=Markup(script),
        script_hashes=" ".join(f"'sha256-{_digest(text)}'" for text in (library, script)),
    )


def plotting_library() -> str:
    """Give the script that draws: Vega, Vega-Lite and Vega-Embed in one."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    script: str = vl_convert.javascript_bundle(_BUNDLE_SNIPPET, vl_version=version)
    # What would end the element early is written so that it means the same to JavaScript.
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--").strip()


def _packaged(name: str) -> str:
    return (files("pipeline.reporting") / "templates" / name).read_text(encoding="utf-8").strip()


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _sections(report: Report) -> tuple[Section, ...]:
    return (
        Section("quality", "How good were the scores?", tuple(quality_figures(report))),
        Section(
            "learning",
            "How did it learn, and what moves it?",
            (*learning_figures(report), *cause_figures(report)),
            tables=(("Over the folds", fold_table(report.findings.folds or {}, "each")),),
        ),
        Section(
            "thresholds",
            "What do scores and thresholds mean?",
            (*threshold_figures(report), what_if_figure(report)),
        ),
        *_parts(report),
        Section("stability", "Did the stream change?", tuple(drift_figures(report))),
        Section(
            "decisions",
            "What was decided, and when did the truth come?",
            tuple(action_figures(report)),
            tables=(
                ("What was behind each action", _truth_table(report)),
                ("First reasons of reviews and declines", _reason_table(report)),
                (
                    "What rules caught, and whom they bothered",
                    rule_table(report.findings.rules, report.minor_digits),
                ),
            ),
        ),
    )


def _parts(report: Report) -> tuple[Section, ...]:
    """Give the section of scenarios and segments, where the file has one of them."""
    figures = tuple(part_figures(report))
    return (Section("parts", "Where does it fail?", figures),) if figures else ()


def _truth_table(report: Report) -> Table:
    frauds = sum(item.frauds for item in report.action_truths)
    rows = [
        (
            item.action, number(item.events), number(item.frauds),
            share_text(item.frauds, item.events), share_text(item.frauds, frauds),
        )
        for item in report.action_truths
    ]  # fmt: skip
    header = ("action", "measured events", "frauds", "share of fraud", "of all frauds")
    return Table(header, tuple(rows))


def _reason_table(report: Report) -> Table:
    rows = [
        (item.code, number(item.alerts), number(item.frauds), share_text(item.frauds, item.alerts))
        for item in report.reasons
    ]
    return Table(("reason code", "alerts", "frauds", "share of fraud"), tuple(rows))


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = report.facts
    counts = [
        " · ".join(f"{name} {count:,}" for name, count in found.items() if count)
        for found in (facts.actions, facts.labels)
    ]
    champion, *challengers = (version for _, version in facts.models)
    changed = [f"{name} {value} (default {default})" for name, value, default in facts.settings]
    return [
        ("file", facts.file_name),
        ("schema", f"{facts.schema} (features {facts.schema_hash or 'none'})"),
        ("period", period_text(facts.first_ms, facts.last_ms) + ", UTC"),
        ("measured", _measured(report)),
        ("events", f"{facts.events:,}, duplicates {facts.duplicates:,}"),
        ("actions", counts[0] or "none"),
        ("labels", counts[1] or "none"),
        ("label delay", format_duration(facts.label_delay_ms)),
        ("champion", champion),
        ("challengers", ", ".join(challengers) or "none"),
        ("policy", facts.policy_version or "none"),
        ("settings that differ", "; ".join(changed) or "none"),
    ]


def _measured(report: Report) -> str:
    start, end = (
        None if moment is None else moment_text(moment)
        for moment in (report.facts.start_ms, report.facts.end_ms)
    )
    if start is None and end is None:
        return "the whole period"
    return f"{f'from {start}' if start else 'from the first event'} to " + (
        f"before {end}, UTC" if end else "the last event, UTC"
    )

"""`fraudstream replay FILE`: stored events through the core, with labels at their true delay."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.snapshot import Snapshot
from pipeline.errors import SettingError
from pipeline.features import feature_table
from pipeline.quality.findings import Findings, findings_of
from pipeline.quality.what_if import Thresholds
from pipeline.replay import Replay, ReplayOptions
from pipeline.rules import load_rules
from pipeline.schema import Schema, load_schema
from pipeline.sealing import read_sealed
from pipeline.signing import ModelVerifier
from producers.batch import EventBatch
from producers.closed_loop import ClosedLoop
from producers.commands import (
    Duration,
    incumbent_option,
    moment_ms,
    simulated_events,
    world_of,
    world_options,
)
from producers.datasets import column_names, count_rows, read_events
from producers.loop_options import closed_loop_option, loop_of, loop_options
from producers.replay_answer import as_json as json_of
from producers.replay_answer import show
from producers.replay_options import question_options, with_models
from producers.replay_run import ReplayPlan, file_segments, run_replay
from producers.report_file import ReportFile
from producers.tokens import Tokeniser
from stack.command_settings import current_settings

if TYPE_CHECKING:
    from pipeline.reporting.run_log import RunLog


@click.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--simulate", "simulated", is_flag=True, help="Replay simulated events.")
@click.option(
    "--label-delay", type=Duration(), default="7d", show_default=True,
    help="Event time from an event to its label: 7d, 12h, 0.",
)  # fmt: skip
@click.option("--start", type=click.DateTime(), help="Measure quality from this moment on (UTC).")
@click.option("--end", type=click.DateTime(), help="Measure quality before this moment (UTC).")
@click.option(
    "--decisions", type=click.Path(dir_okay=False, path_type=Path), help="Parquet file to write."
)
@click.option("--features", is_flag=True, help="Features beside the decisions of --decisions.")
@click.option(
    "--snapshot", "snapshot_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Score with the model in this file (`fraudstream models save`); needs --no-learn.",
)  # fmt: skip
@click.option("--no-learn", is_flag=True, help="Learn nothing; needs --snapshot.")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="HTML page to write."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@incumbent_option
@question_options
@closed_loop_option
@loop_options
@world_options
def replay(
    file: Path | None,
    simulated: bool,
    snapshot_file: Path | None,
    no_learn: bool,
    report: Path | None,
    as_json: bool,
    **others: Any,
) -> None:
    """Run the events of FILE (CSV or Parquet), or simulated ones, through the core, and measure.

    The same engine as the worker's; each label is learned when it would have become known. In a
    closed loop what becomes known depends on what was decided, and quality is measured against the
    truth. Ctrl-C ends it early with what was measured until then.
    """
    if (file is not None) == simulated:
        raise click.UsageError("give either a FILE or --simulate")
    if others["incumbent"] and (file is not None or others["closed_loop"]):
        raise click.UsageError("--incumbent is for --simulate, and not for --closed-loop")
    if others["closed_loop"] and no_learn:
        raise click.UsageError("--closed-loop and --no-learn exclude each other")
    if no_learn != (snapshot_file is not None):
        raise click.UsageError(
            "--snapshot and --no-learn go together: a file's model is not taught"
        )
    if no_learn and others["folds"]:
        raise click.UsageError("--folds and --no-learn exclude each other: folds learn")
    if others["features"] and others["decisions"] is None:
        raise click.UsageError("--features needs --decisions, which they are written beside")
    page = None if report is None else ReportFile(report)
    snapshot = None
    if snapshot_file is not None:
        pickles, verifier = current_settings().river_pickle, ModelVerifier(current_settings())
        snapshot = read_sealed(snapshot_file.read_bytes(), verifier, river_pickle=pickles)
    plan = _plan(file, snapshot, others, with_log=page is not None)
    watch = plan.watch()
    run = run_replay(plan, watch)
    found = findings_of(run, plan.settings, plan.options, watch)
    if as_json:
        click.echo(json_of(run.result, found, plan))
    else:
        show(run.result, found, plan)
    if page is not None and plan.log is not None:
        _save_report(page, plan, run, plan.log, found)
    if not run.result.finished:
        raise click.Abort


def _plan(
    file: Path | None, snapshot: Snapshot | None, others: dict[str, Any], *, with_log: bool
) -> ReplayPlan:
    settings = with_models(current_settings(), others["models"])
    if snapshot is not None:
        # The one model that runs is the one that is shown.
        settings = replace(settings, model=snapshot.model.name, challengers="none")
    options = ReplayOptions(
        others["label_delay"],
        moment_ms(others["start"]),
        moment_ms(others["end"]),
        others["alerts_a_day"],
    )
    schema = load_schema(settings.schema)
    title, batches, total = _events(file, schema, others)
    segments = others["segment"] or tuple(category.name for category in schema.categories)
    decline = settings.decline_score_min
    return ReplayPlan(
        title=title,
        batches=batches,
        total=total,
        schema=schema,
        settings=settings,
        options=options,
        segments=segments,
        thresholds=tuple(
            Thresholds.parsed(text, decline_score_min=decline) for text in others["what_if"]
        ),
        folds=others["folds"],
        fold_scheme=others["fold_scheme"],
        decisions=others["decisions"],
        with_features=others["features"],
        snapshot=snapshot,
        world=_closed_loop(options, others),
        log=_run_log(schema, options) if with_log else None,
        rules=load_rules(settings, schema),
    )


def _events(
    file: Path | None, schema: Schema, others: dict[str, Any]
) -> tuple[str, Iterable[EventBatch], int | None]:
    """Give what the events are called, the events, and how many there are."""
    asked: tuple[str, ...] = others["segment"]
    if file is not None:
        beside = file_segments(schema, asked, column_names(file)) if asked else []
        tokeniser = Tokeniser.of(current_settings(), schema)
        read = read_events(file, schema, segments=beside, tokeniser=tokeniser)
        return file.name, read, count_rows(file)
    if asked:
        raise SettingError("--segment: simulated events have no other fields")
    batches, total = simulated_events(schema, world_of(others), incumbent=others["incumbent"])
    return f"simulated, seed {others['seed']}", batches, total


def _closed_loop(options: ReplayOptions, others: dict[str, Any]) -> ClosedLoop | None:
    loop = loop_of(others, seed=others["seed"], start_ms=options.start_ms, end_ms=options.end_ms)
    return ClosedLoop(loop) if loop else None


def _run_log(schema: Schema, options: ReplayOptions) -> "RunLog":
    # River's detectors take 150 MB to import, and only a report needs them.
    from pipeline.reporting.run_log import RunLog  # noqa: PLC0415

    names = [feature.name for feature in feature_table(schema)]
    return RunLog(names, label_delay_ms=options.label_delay_ms, reference_from_ms=options.start_ms)


def _save_report(
    page: ReportFile, plan: ReplayPlan, run: Replay, log: "RunLog", findings: Findings
) -> None:
    # The plotting library takes a second to import, and only this needs it.
    from pipeline.reporting.page import render  # noqa: PLC0415
    from pipeline.reporting.report import make_report  # noqa: PLC0415

    found = make_report(
        plan.title,
        plan.schema,
        plan.settings,
        plan.options,
        run.result,
        run.scores.columns(),
        log,
        findings,
    )
    page.save(render(found))
    click.echo(f"report: {page.path}", err=True)

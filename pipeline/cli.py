"""The one console script. Commands are a table; a command's module is imported when it is called.

Every setting is a flag of every command; `--help` of a command shows those that matter there.
Answers go to stdout, everything else to stderr. Exit 0: done, 1: could not, 2: wrong use.
"""

import copy
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipeline.card_numbers import mask_card_numbers_in_text
from pipeline.connection_settings import CONNECTION
from pipeline.errors import FraudstreamError
from pipeline.log_masking import mask_logs, mask_uncaught
from pipeline.settings import SETTINGS, load_settings

INTERRUPTED = 130
FOREIGN_LOGGERS = ("aiokafka", "faust", "kafka", "mode")


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Where a command is, what it does in a few words, and the settings its help shows."""

    place: str
    text: str
    settings: tuple[str, ...] = ()


KEYS = ("keys_dir", "label_signatures")
TO_REDIS = tuple(name for name in CONNECTION if name.startswith("redis"))
TO_KAFKA = tuple(name for name in CONNECTION if name not in TO_REDIS)
CONNECTED = (*TO_KAFKA, *TO_REDIS, "schema", "state_dir")
SIGNING = (*CONNECTED, *KEYS)
OPERATING = (*TO_KAFKA, "schema", "state_dir", "keys_dir")
CONTROLLED = (
    *("mode", "breaker_decline_share_max", "breaker_amount_minor_max"),
    *("breaker_window_minutes", "breaker_events_min"),
)
SCORING = ("model", "challengers", "review_score_min", "decline_score_min")
# What models are made by.
LEARNING = (
    *("members", "refit_days", "refit_window_days", "refit_examples_max"),
    *("boosted_trees", "boosted_leaves", "boosted_rate", "l1", "l2", "decay_days"),
    *("loss", "fraud_weight", "focal_gamma", "decline_cost_minor", "decline_cost_share"),
    *("river_options", "river_pickle"),
)
SERVING = ("metrics_host", "metrics_port")

COMMANDS: dict[str, CommandEntry] = {
    "demo": CommandEntry(
        "stack.demo:demo", "Everything at once on this machine, live.", ("state_dir", *SCORING)
    ),
    "up": CommandEntry(
        "stack.commands:up",
        "Start embedded Kafka and Redis.",
        ("state_dir", "partitions", *SCORING),
    ),
    "down": CommandEntry("stack.commands:down", "Stop what `up` started.", ("state_dir",)),
    "status": CommandEntry("stack.commands:status", "Show the embedded servers.", ("state_dir",)),
    "topics": CommandEntry(
        "stack.commands:topics", "Create the topics on a Kafka.", (*TO_KAFKA, "partitions")
    ),
    "check": CommandEntry(
        "stack.check_command:check",
        "Say what is wrong with the servers, and how to mend it.",
        (*SIGNING, "consumer_group", "partitions"),
    ),
    "keys": CommandEntry(
        "stack.keys_command:keys", "Make, list, rotate and retire keys.", ("keys_dir", "state_dir")
    ),
    "tokens": CommandEntry(
        "producers.tokens_command:tokens",
        "Give the tokens of card numbers.",
        ("keys_dir", "state_dir"),
    ),
    "scan": CommandEntry(
        "stack.scan_command:scan",
        "Look for card numbers where none may be.",
        ("kafka_servers", "redis_url", "state_dir"),
    ),
    "simulate": CommandEntry(
        "producers.commands:simulate_command", "Write simulated traffic to a file."
    ),
    "publish": CommandEntry(
        "producers.commands:publish_command", "Publish a file or simulated traffic.", SIGNING
    ),
    "loop": CommandEntry(
        "producers.loop_command:loop_command", "Publish, and answer to the decisions.", SIGNING
    ),
    "worker": CommandEntry(
        "consumers.worker_command:worker",
        "Score transactions and join labels.",
        (
            *(*SIGNING, *SCORING, *SERVING),
            *CONTROLLED,
            *("rules", "partitions", "consumer_group", "feedback_limit", "maturity_days"),
        ),
    ),
    "trainer": CommandEntry(
        "consumers.trainer_command:trainer",
        "Learn from labels, publish versions.",
        (
            *(*CONNECTED, "keys_dir", "model", "challengers", *LEARNING, *SERVING),
            "snapshot_interval_seconds",
        ),
    ),
    "monitor": CommandEntry(
        "consumers.monitor_command:monitor",
        "Measure quality and drift.",
        (*CONNECTED, *SERVING, "quality_window_events", "rules"),
    ),
    "alerts": CommandEntry(
        "consumers.review_commands:alerts", "List what waits for review, with reasons.", CONNECTED
    ),
    "label": CommandEntry(
        "consumers.review_commands:label", "Say that a transaction was fraud or genuine.", SIGNING
    ),
    "labels": CommandEntry(
        "consumers.labels_command:labels", "Publish the labels of a chargeback file.", SIGNING
    ),
    "redrive": CommandEntry(
        "consumers.redrive_command:redrive",
        "List dead letters, send them again after a fix.",
        (*TO_KAFKA, *TO_REDIS, "state_dir"),
    ),
    "models": CommandEntry(
        "consumers.models_command:models",
        "List, save, publish and hold versions of the models.",
        (*TO_KAFKA, "state_dir", "keys_dir"),
    ),
    "rules": CommandEntry(
        "consumers.rules_command:rules",
        "List and check rules, and what they caught.",
        (*TO_KAFKA, "schema", "state_dir", "rules"),
    ),
    "mode": CommandEntry(
        "consumers.controls_command:mode", "Act on decisions, or only observe.", OPERATING
    ),
    "block": CommandEntry(
        "consumers.controls_command:block", "Decline all events of a card, a terminal.", OPERATING
    ),
    "allow": CommandEntry(
        "consumers.controls_command:allow", "Approve all events of a card, a terminal.", OPERATING
    ),
    "unlist": CommandEntry(
        "consumers.controls_command:unlist", "Take it from the lists again.", OPERATING
    ),
    "lists": CommandEntry(
        "consumers.controls_command:lists", "Show what is blocked and allowed.", OPERATING
    ),
    "controls": CommandEntry(
        "consumers.controls_command:controls",
        "Show what operators said: who, when, why.",
        (*OPERATING, "mode"),
    ),
    "verify": CommandEntry(
        "consumers.verify_command:verify",
        "Make recorded decisions again, and compare.",
        (*TO_KAFKA, "schema", "state_dir", "keys_dir", "rules", *SCORING, *LEARNING),
    ),
    "replay": CommandEntry(
        "producers.replay_command:replay",
        "Run a file through the core, and measure.",
        (
            "schema",
            "keys_dir",
            "rules",
            *SCORING,
            *CONTROLLED,
            *LEARNING,
            "batch_events_max",
            "maturity_days",
        ),
    ),
    "schema": CommandEntry(
        "producers.schema_command:schema", "Propose a schema for a file, check a file by one."
    ),
    "compare": CommandEntry(
        "stack.compare_command:compare_command",
        "Compare with the system that you have.",
        (*TO_KAFKA, "schema", "state_dir", "decline_cost_minor", "decline_cost_share"),
    ),
    "backfill": CommandEntry(
        "stack.backfill_command:backfill",
        "Learn from recorded history, then go live.",
        (
            *(*CONNECTED, "keys_dir", *SCORING, *LEARNING, "rules", "partitions"),
            *("batch_events_max", "feedback_limit", "maturity_days"),
        ),
    ),
    "mistakes": CommandEntry(
        "stack.mistakes_command:mistakes",
        "List the costliest mistakes and what they taught.",
        (
            *(*TO_KAFKA, "schema", "state_dir", "keys_dir", *SCORING, *LEARNING),
            "maturity_days",
        ),
    ),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.place.partition(":")
        return _completed(getattr(importlib.import_module(module), name), entry.settings)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.text) for name, entry in COMMANDS.items()])


def _completed(command: click.Command, shown: Sequence[str]) -> click.Command:
    """Give a command, or a group of them, with every setting as a flag; its module's own stays."""
    completed = copy.copy(command)
    if isinstance(completed, click.Group):
        parts = completed.commands.items()
        completed.commands = {name: _completed(part, shown) for name, part in parts}
        return completed
    completed.params = list(command.params)
    _add_settings(completed, shown)
    return completed


def _add_settings(command: click.Command, shown: Sequence[str]) -> None:
    """Make every setting a flag of a command; those that are shown come first."""
    for setting in sorted(SETTINGS, key=lambda item: item.name not in shown):
        if any(option.name == setting.name for option in command.params):
            continue
        text = f"{setting.metadata['help']} [default: {setting.default!r}]"
        option = click.Option(
            [f"--{setting.name.replace('_', '-')}", setting.name],
            type=type(setting.default),
            help=text,
            hidden=setting.name not in shown,
        )
        command.params.append(option)
    assert command.callback is not None, command.name
    command.callback = _with_settings(command.callback)


def _with_settings(callback: Callable[..., Any]) -> Callable[..., Any]:
    names = {setting.name for setting in SETTINGS}

    def call(**given: Any) -> Any:
        context = click.get_current_context()
        flags = {name: value for name, value in given.items() if name in names}
        flags = {name: value for name, value in flags.items() if value is not None}
        # All places are put together before anything is checked, since later ones win.
        context.obj = load_settings(flags, os.environ, context.obj)
        return callback(**{name: value for name, value in given.items() if name not in names})

    return call


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Settings file [fraudstream.toml].")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens, to stderr.")
@click.version_option(package_name="fraudstream")
@click.pass_context
def cli(context: click.Context, config: Path | None, verbose: bool) -> None:
    """Streaming fraud detection beside your Kafka.

    Begin with `fraudstream demo`: it needs nothing else.
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    mask_logs()
    if not verbose:
        # The clients say on their own account what our processes say in their words.
        for name in FOREIGN_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    context.obj = config


def main() -> None:
    """Run the command line; errors that a user can mend are one line."""
    mask_uncaught()
    try:
        # A command that ends itself with an exit code gives it back here, and others nothing.
        code = cli.main(standalone_mode=False)
        if code:
            sys.exit(code)
    except click.ClickException as error:
        error.message = mask_card_numbers_in_text(error.message)
        error.show()
        sys.exit(error.exit_code)
    except FraudstreamError as error:
        click.echo(mask_card_numbers_in_text(f"fraudstream: {error}"), err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("fraudstream: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        # What a client of Kafka or Redis raises is no fault of ours: a trace would tell nobody
        # anything. Our own mistakes keep theirs.
        said = importlib.import_module("stack.plain_errors").said(error)
        if said is None:
            raise
        click.echo(f"fraudstream: {said}", err=True)
        sys.exit(1)

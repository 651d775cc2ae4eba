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

from pipeline.errors import FraudstreamError
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
CONNECTED = ("kafka_servers", "redis_url", "schema", "state_dir")
SIGNING = (*CONNECTED, *KEYS)
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
        "stack.commands:topics", "Create the topics on a Kafka.", ("kafka_servers", "partitions")
    ),
    "keys": CommandEntry(
        "stack.keys_command:keys", "Make, list, rotate and retire keys.", ("keys_dir", "state_dir")
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
        "consumers.commands:worker",
        "Score transactions and join labels.",
        (
            *(*SIGNING, *SCORING, *SERVING),
            *("rules", "partitions", "feedback_limit", "maturity_days"),
        ),
    ),
    "trainer": CommandEntry(
        "consumers.commands:trainer",
        "Learn from labels, publish versions.",
        (
            *(*CONNECTED, "keys_dir", "model", "challengers", *LEARNING, *SERVING),
            "snapshot_interval_seconds",
        ),
    ),
    "monitor": CommandEntry(
        "consumers.commands:monitor",
        "Measure quality and drift.",
        (*CONNECTED, *SERVING, "quality_window_events"),
    ),
    "alerts": CommandEntry(
        "consumers.commands:alerts", "List what waits for review, with reasons.", CONNECTED
    ),
    "label": CommandEntry(
        "consumers.commands:label", "Say that a transaction was fraud or genuine.", SIGNING
    ),
    "redrive": CommandEntry(
        "consumers.redrive_command:redrive",
        "List dead letters, send them again after a fix.",
        ("kafka_servers", "redis_url", "state_dir"),
    ),
    "models": CommandEntry(
        "consumers.models_command:models",
        "List, save and publish versions of the models.",
        ("kafka_servers", "state_dir", "keys_dir"),
    ),
    "verify": CommandEntry(
        "consumers.verify_command:verify",
        "Make recorded decisions again, and compare.",
        ("kafka_servers", "schema", "state_dir", "keys_dir", "rules", *SCORING, *LEARNING),
    ),
    "replay": CommandEntry(
        "producers.replay_command:replay",
        "Run a file through the core, and measure.",
        ("schema", *SCORING, *LEARNING, "batch_events_max", "maturity_days"),
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
        ("kafka_servers", "schema", "state_dir", *SCORING, *LEARNING, "maturity_days"),
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
    if not verbose:
        # The clients say on their own account what our processes say in their words.
        for name in FOREIGN_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    context.obj = config


def main() -> None:
    """Run the command line; errors that a user can mend are one line."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FraudstreamError as error:
        click.echo(f"fraudstream: {error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("fraudstream: interrupted", err=True)
        sys.exit(INTERRUPTED)

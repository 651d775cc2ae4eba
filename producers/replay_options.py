"""What `fraudstream replay` can be asked beyond what it always measures.

>>> @click.command()
... @question_options
... def show(**options): print(sorted(options))
>>> show([], standalone_mode=False)
['alerts_a_day', 'fold_scheme', 'folds', 'models', 'segment', 'what_if']
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import click

from pipeline.errors import SettingError
from pipeline.quality.budget import ALERTS_A_DAY
from pipeline.quality.folds import FOLDS_MAX, FOLDS_MIN, SCHEMES
from pipeline.settings import Settings

_OPTIONS = (
    click.option(
        "--models",
        help="Models side by side in one pass, separated by commas; the first is the champion.",
    ),
    click.option(
        "--alerts-a-day",
        type=click.IntRange(min=1),
        default=ALERTS_A_DAY,
        show_default=True,
        help="The budget that recall and value detection are measured at.",
    ),
    click.option(
        "--what-if",
        multiple=True,
        metavar="REVIEW[:DECLINE]",
        help="What these thresholds would have done in the judged period; may be repeated.",
    ),
    click.option(
        "--segment",
        multiple=True,
        metavar="FIELD",
        help="Judge by the values of this category or column of the file; may be repeated. "
        "[default: the schema's categories]",
    ),
    click.option(
        "--folds",
        type=click.IntRange(min=FOLDS_MIN, max=FOLDS_MAX),
        help="Run so many models beside each, as prequential folds: means with intervals.",
    ),
    click.option(
        "--fold-scheme",
        type=click.Choice(SCHEMES),
        default=SCHEMES[0],
        show_default=True,
        help="An event is learned by all folds but one, by one, or by each as often as Poisson "
        "says; the others test it.",
    ),
)


def question_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of what is asked of a run."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_models(settings: Settings, models: str | None) -> Settings:
    """Let the models of a list run, the first as champion; without a list, those of the settings.

    >>> with_models(Settings(), "logistic, additive").challenger_names
    ('additive',)
    """
    if models is None:
        return settings
    names = [name.strip() for name in models.split(",") if name.strip()]
    check_differ(names)
    return replace(settings, model=names[0], challengers=",".join(names[1:]) or "none")


def check_differ(names: Sequence[str]) -> None:
    """Refuse a list of models that is empty or names one twice."""
    if not names or len(set(names)) < len(names):
        raise SettingError(f"--models: expected names that differ (got {', '.join(names) or '-'})")

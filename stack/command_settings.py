"""The settings of the command that runs, for those that need no server."""

import click

from pipeline.settings import Settings


def current_settings() -> Settings:
    """Give the settings of the command that runs."""
    settings = click.get_current_context().obj
    assert isinstance(settings, Settings), settings
    return settings

"""What `fraudstream check` finds: one line each."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what mends it, in plain words."""

    status: Status
    about: str
    text: str


def ok(about: str, text: str) -> Finding:
    """Give a finding that all is well."""
    return Finding("ok", about, text)


def warning(about: str, text: str) -> Finding:
    """Give a finding that should be looked at, though it hinders nothing."""
    return Finding("warning", about, text)


def problem(about: str, text: str) -> Finding:
    """Give a finding that hinders."""
    return Finding("problem", about, text)

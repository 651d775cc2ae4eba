"""What can go wrong, and the words for it.

FraudstreamError
    SettingError        a setting is unknown, malformed or contradicts another
    SchemaError         a schema file does not describe a stream
    DataError           a file does not fit its schema
    SnapshotError       a model snapshot is damaged or of another kind
    StackError          an embedded server could not be started or stopped
    CommitError         the store holds something that the protocol does not allow

A bad event is none of these: it is a value, `Rejected`, and becomes a dead letter.
"""

from typing import Literal, get_args


class FraudstreamError(Exception):
    """Anything that a user can mend; its text is one line that says how."""


class SettingError(FraudstreamError):
    """A setting is unknown, malformed or contradicts another."""


class SchemaError(FraudstreamError):
    """A schema file does not describe a stream."""


class DataError(FraudstreamError):
    """A file does not fit its schema."""


class SnapshotError(FraudstreamError):
    """A model snapshot is damaged or of another kind."""


class StackError(FraudstreamError):
    """An embedded server could not be started or stopped."""


class CommitError(FraudstreamError):
    """The store holds something that the protocol does not allow."""


Reason = Literal[
    "malformed",
    "schema",
    "too_large",
    "card_number",
    "wrong_partition",
    "wrong_key",
    "out_of_time",
    "unknown_transaction",
]
"""Why an input became a dead letter; a closed list."""

REASONS: tuple[Reason, ...] = get_args(Reason)

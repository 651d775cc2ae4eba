"""What can go wrong, and the words for it.

FraudstreamError
    SettingError        a setting is unknown, malformed or contradicts another
    SchemaError         a schema file does not describe a stream
    DataError           a file does not fit its schema
    SnapshotError       a model snapshot is damaged, forged or of another kind
    KeyFileError        a key is missing, malformed, or readable by others
    RulesError          a file of rules does not say what to do
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


SnapshotFault = Literal[
    "signature", "format", "damaged", "too_large", "unknown_model", "not_finite", "canary", "stale"
]
"""Why a record of a model was refused; a closed list."""

SNAPSHOT_FAULTS: tuple[SnapshotFault, ...] = get_args(SnapshotFault)


class SnapshotError(FraudstreamError):
    """A model snapshot is damaged, forged or of another kind; `fault` says which."""

    def __init__(self, text: str, fault: SnapshotFault = "damaged") -> None:
        super().__init__(text)
        self.fault: SnapshotFault = fault


class KeyFileError(FraudstreamError):
    """A key is missing, malformed, or readable by others."""


class RulesError(FraudstreamError):
    """A file of rules does not say what to do."""


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
    "out_of_time",
    "unknown_transaction",
    "bad_signature",
]
"""Why an input became a dead letter; a closed list."""

REASONS: tuple[Reason, ...] = get_args(Reason)

"""The pointer record of the `models` topic: which versions are in force."""

import msgspec

from pipeline.errors import SnapshotError
from pipeline.signing import Headers, ModelVerifier

CHAMPION_KEY = b"champion"


class WindowPlace(msgspec.Struct, frozen=True):
    """Where in the training log the window of a model begins (`pipeline/places.py`)."""

    offset: int
    learned: int
    marks: dict[str, int]


class Champion(msgspec.Struct, frozen=True):
    """The pointer record: which versions are in force, and the learner's marks at their offset.

    `window` is where a trainer begins to read, to hand these versions what they need again.
    """

    version: str
    challengers: list[str]
    training_offset: int
    marks: dict[str, int]
    window: WindowPlace | None = None


def read_pointer(value: bytes | None, headers: Headers, verifier: ModelVerifier) -> Champion:
    """Give the pointer that a record holds, if its signature is good."""
    problem = verifier.pointer_problem(headers, CHAMPION_KEY, value)
    if problem is not None:
        raise SnapshotError(f"pointer: {problem}", "signature")
    try:
        return msgspec.json.decode(value or b"", type=Champion)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(f"pointer: it is not understood: {error}") from error

"""All features of a replay as one matrix, with labels, times and who knew what when.

Another model, in another tool, can be judged fairly only on the very same rows: the features as
they were when each event was decided, and the labels that were known by then. A file of float32
holds the rows, so that memory does not grow with the stream.

>>> import tempfile
>>> from pathlib import Path
>>> log = FeatureLog(Path(tempfile.mkdtemp()) / "features.f4", ("amount", "hour"))
>>> log.close()
>>> log.columns().shape
(0, 2)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.durations import DAY_MS
from pipeline.engine import Decisions
from pipeline.features import FeatureKernel
from pipeline.records import FEATURE_DTYPE
from pipeline.replay import Labelled, Replay, ReplayOptions
from pipeline.schema import Schema
from pipeline.settings import Settings


class FeatureLog:
    """Writes the features of decisions to a file, a row an event; `columns` reads them back.

    Parameters
    ----------
    path
        The file; it holds rows of little-endian float32 and nothing else.
    names
        Names of the features.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._path = path
        self._file = path.open("wb")
        self._rows = 0

    def add_decisions(self, decisions: Decisions) -> None:
        """Take a batch of decisions."""
        assert decisions.features.shape[1] == len(self.names), decisions.features.shape
        self._file.write(decisions.features.astype(FEATURE_DTYPE).tobytes())
        self._rows += len(decisions)

    def columns(self) -> NDArray[np.float32]:
        """Give all rows, in the order of their decisions; read from the file as they are used."""
        if not self._file.closed:
            self._file.flush()
        shape = (self._rows, len(self.names))
        if not self._rows:
            return np.zeros(shape, np.float32)
        return np.memmap(self._path, FEATURE_DTYPE, mode="r", shape=shape)

    def close(self) -> None:
        """Write what is left; rows that were read stay."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A replay as columns, an event a row, in the order of the decisions.

    Parameters
    ----------
    is_fraud
        1, 0, or -1 where nobody knows.
    card
        The partition key, coded as integers from 0.
    labels
        Rows in the order in which their labels became known.
    labels_known
        How many of `labels` the learner had when each event was scored: a rival that is fair
        learns `labels[:labels_known[row]]` and no more before it scores the row.
    scores
        What our own models said, the champion first.
    """

    names: tuple[str, ...]
    features: NDArray[np.float32]
    is_fraud: NDArray[np.int8]
    event_time_ms: NDArray[np.int64]
    amount_minor: NDArray[np.int64]
    card: NDArray[np.int64]
    labels: NDArray[np.int64]
    labels_known: NDArray[np.int64]
    scores: dict[str, NDArray[np.float64]]


def log_features(
    schema: Schema,
    settings: Settings,
    batches: Iterable[Labelled],
    *,
    label_delay_ms: int,
    path: Path,
) -> LoggedRun:
    """Replay events with labels a constant time late, and give what any model could have learned.

    `path` is where the features go. Features depend on labels and never on a model, so the
    settings' models may be any.
    """
    # A label that comes before silence counts makes the order of labels that of the events.
    assert label_delay_ms < settings.maturity_days * DAY_MS, label_delay_ms
    log = FeatureLog(path, FeatureKernel(schema).names)
    run = Replay(schema, settings, ReplayOptions(label_delay_ms), decided=log.add_decisions)
    run.run(batches, lambda result: None)
    log.close()
    found = run.scores.columns()
    assert found is not None, "there is no event"
    assert run.result.finished, "the replay was interrupted"
    assert set(run.result.labels) <= {"learned", "repeated"}, run.result.labels
    return LoggedRun(
        names=log.names,
        features=log.columns(),
        is_fraud=found.is_fraud,
        event_time_ms=found.event_time_ms,
        amount_minor=found.amount_minor,
        card=found.card.astype(np.int64),
        labels=np.flatnonzero(found.is_fraud >= 0),
        labels_known=found.labels_known.astype(np.int64),
        scores=found.scores,
    )

"""A stream as a table for models that are no part of the system: features, labels, times.

The features lie in a file, one float32 row an event, and are read a window at a time, so that the
memory of a row is what its model needs and not the size of the stream. Rows are in event order,
and a label is known its delay after its event, as in a replay.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.progress import progress
from benchmarks.quality import handbook_features
from benchmarks.quality.streams import STREAMS, Stream, cache_folder
from pipeline.durations import DAY_MS
from pipeline.engine import Decisions
from pipeline.feature_log import FeatureLog
from pipeline.features import FeatureKernel
from pipeline.replay import Replay, ReplayOptions
from pipeline.settings import Settings

Float32s = NDArray[np.float32]
# Reads no label that the next model would not have had: the cheapest model that decides.
DUMPING_MODEL = "additive"


@dataclass(frozen=True, slots=True)
class Truth:
    """What scores are judged by, for every event in the order of its decision."""

    is_fraud: NDArray[np.int8]
    event_time_ms: NDArray[np.int64]
    card: NDArray[np.int64]
    amount_minor: NDArray[np.int64]

    def columns(self) -> dict[str, Any]:
        """Give the columns by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def save(self, path: Path) -> None:
        """Keep the columns in one file."""
        np.savez(path, **self.columns())

    @classmethod
    def load(cls, path: Path) -> "Truth":
        """Read what `save` wrote."""
        with np.load(path) as columns:
            return cls(*(columns[name] for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Table:
    """A stream's features in a file, and the truth about each row."""

    path: Path
    names: tuple[str, ...]
    truth: Truth
    delay_ms: int

    def __len__(self) -> int:
        return len(self.truth.is_fraud)

    def rows(self, start: int, stop: int) -> Float32s:
        """Read the features of rows `start` to `stop`, without that one."""
        width = len(self.names)
        found = np.fromfile(
            self.path, dtype=np.float32, count=(stop - start) * width, offset=start * width * 4
        )
        return found.reshape(-1, width)

    def known_at(self, now_ms: int) -> int:
        """Give how many labels are known at a moment, in event order."""
        times = self.truth.event_time_ms
        return int(np.searchsorted(times, now_ms - self.delay_ms, side="right"))


def table_of(stream: str, features: str, delay_days: float, key: str) -> Table:
    """Give a stream's table, made once and kept under the key of the code that made it."""
    folder = cache_folder() / f"{stream}-{features}-{delay_days:g}d-{key}"
    if not (folder / "names.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        make = _own if features == "own" else _handbook
        names, truth = make(STREAMS[stream], int(delay_days * DAY_MS), folder / "features")
        truth.save(folder / "truth.npz")
        (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    truth = Truth.load(folder / "truth.npz")
    return Table(folder / "features", tuple(names), truth, int(delay_days * DAY_MS))


def champion_of(run: Replay) -> tuple[NDArray[np.float64], Truth]:
    """Give the champion's scores in a replay, and the truth about their events."""
    columns = run.scores.columns()
    assert columns is not None, "a stream without events"
    scores = next(iter(columns.scores.values()))
    return scores, Truth(
        columns.is_fraud, columns.event_time_ms, columns.card.astype(np.int64), columns.amount_minor
    )


def replayed(
    stream: Stream,
    settings: Settings,
    delay_ms: int,
    *,
    decided: Callable[[Decisions], None] | None = None,
    name: str = "replay",
    **others: Any,
) -> Replay:
    """Run a stream through the engine, as `fraudstream replay` does."""
    options = ReplayOptions(delay_ms, *stream.judged_ms)
    run = Replay(stream.schema, settings, options, decided=decided, **others)
    with progress(name, "events", stream.total) as report:
        batches = ((batch.transactions(), batch.is_fraud) for batch in stream.events())
        run.run(batches, lambda result: report(result.events))
    return run


def _own(stream: Stream, delay_ms: int, path: Path) -> tuple[tuple[str, ...], Truth]:
    """Write the features that the engine decided on; labels teach the profiles after the delay."""
    log = FeatureLog(path, FeatureKernel(stream.schema).names)
    settings = Settings(model=DUMPING_MODEL, challengers="none")
    run = replayed(stream, settings, delay_ms, decided=log.add_decisions, name="features")
    log.close()
    return log.names, champion_of(run)[1]


def _handbook(stream: Stream, delay_ms: int, path: Path) -> tuple[tuple[str, ...], Truth]:
    batches = list(stream.events())
    times = np.concatenate([batch.event_time_ms for batch in batches])
    fraud = np.concatenate([batch.is_fraud for batch in batches])
    cards, terminals = (
        handbook_features.codes([batch.keys[place] for batch in batches]) for place in range(2)
    )
    minor = np.concatenate([batch.amount_minor for batch in batches])
    found = handbook_features.features(
        times, cards, terminals, minor / 100.0, fraud, delay_ms=delay_ms
    )
    found.tofile(path)
    return handbook_features.NAMES, Truth(fraud, times, cards, minor)

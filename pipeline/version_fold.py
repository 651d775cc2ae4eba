"""Any version of the models, made again from the training log.

A version is named by the training offset that it was learned to (`additive@1234`), so it is the
fold of the log up to there, whether its snapshot was kept or not. Versions are asked for in rising
order, nearly: the fold goes on. For one that lies behind, the nearest stand that is remembered is
taken up and folded on from there.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from models import check_kept, is_known, make_model, restored
from models.contract import Arrays, Header, Model
from models.options import ModelOptions
from models.snapshot import Snapshot, decode, encode
from pipeline.errors import SnapshotError
from pipeline.features import FeatureKernel
from pipeline.learner import Learner
from pipeline.places import Place, Places
from pipeline.records import TrainingExample
from pipeline.schema import Schema
from pipeline.version_names import split_version

# Stands that are remembered, some half a megabyte each; the one not used for longest goes.
STANDS_MAX = 32
# Going back costs what lies between. Beyond so many examples learned again, versions that lie
# behind are given up; a rollback takes one way back, and a slow worker a short one.
EXAMPLES_AGAIN_MAX = 20_000_000
BATCH_EXAMPLES_MAX = 2_000

TrainingRecords = Generator[tuple[int, TrainingExample | None], None, None]
"""The offset and the example of each record, `None` where it is none; closed by its reader."""
TrainingLog = Callable[[int], TrainingRecords]
"""Gives the training log from an offset on."""


class TrainingCursor:
    """A place in the training log that moves forward; `offset` is behind the last record given."""

    def __init__(self, log: TrainingLog, start: int = 0) -> None:
        self._log, self._start = log, start
        self.offset = start
        self._records: TrainingRecords | None = None
        self._next: tuple[int, TrainingExample | None] | None = None

    def until(self, offset: int) -> Iterator[list[TrainingExample]]:
        """Give the examples before an offset that were not given yet, some at a time."""
        batch: list[TrainingExample] = []
        while (record := self._peek()) is not None and record[0] < offset:
            self._next, self.offset = None, record[0] + 1
            if record[1] is not None:
                batch.append(record[1])
            if len(batch) >= BATCH_EXAMPLES_MAX:
                yield batch
                batch = []
        if batch:
            yield batch

    def close(self) -> None:
        """Let go of the log."""
        if self._records is not None:
            self._records.close()

    def _peek(self) -> tuple[int, TrainingExample | None] | None:
        if self._records is None:
            self._records = self._log(self._start)
        if self._next is None:
            self._next = next(self._records, None)
        return self._next


@dataclass(frozen=True, slots=True)
class _Stand:
    """All that the fold is at an offset, and where the windows of its models begin."""

    place: Place
    states: list[tuple[str, Header, Arrays]]


@dataclass(slots=True)
class SnapshotChecks:
    """Published snapshots against the fold: the versions that are equal, that differ, that the
    fold does not reach, and that were refused for what is wrong with them."""

    equal: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


class VersionFold:
    """Gives the models as they were at an offset of the training log.

    Parameters
    ----------
    names
        The models that are folded.
    end
        The offset after the log's last record.
    options
        How the models learn that nothing was learned by yet.
    published
        Snapshots by version, their signatures checked and taken off. Those that the fold passes are
        compared with it, byte for byte; those beyond the log's end, which nobody can fold, are
        taken as they are.
    """

    def __init__(
        self,
        schema: Schema,
        names: Sequence[str],
        log: TrainingLog,
        *,
        end: int,
        options: ModelOptions | None = None,
        published: Mapping[str, bytes] | None = None,
        examples_again_max: int = EXAMPLES_AGAIN_MAX,
    ) -> None:
        self._schema, self._log, self.end = schema, log, end
        self._kernel = FeatureKernel(schema)
        self.names = tuple(names)
        self._options = options or ModelOptions()
        check_kept(names, self._options)
        self._stands: OrderedDict[int, _Stand] = OrderedDict()
        self._places = Places()
        self._learner = self._fresh()
        self._cursor = TrainingCursor(log)
        self._passed = self._again = 0
        self._again_max = examples_again_max
        self._published = dict(published or {})
        self._beyond: dict[str, Snapshot] = {}
        self._stops = self._sorted_stops()
        self.checks = SnapshotChecks()

    @property
    def examples(self) -> int:
        """How many records of the log the fold has passed."""
        return self._passed

    def model(self, version: str) -> Model | str:
        """Give a version's model, good until the next call; or say why it cannot be had."""
        parts = split_version(version)
        if parts is None:
            return "version is not the name of one"
        name, offset = parts
        if offset > self.end:
            return self._taken(version)
        if name not in self.names:
            return (
                "model is not among --model and --challengers"
                if is_known(name)
                else "no such model"
            )
        if offset != self._learner.offset and not self._go(offset):
            return f"version lies too far behind: {self._again_max:,} examples were learned again"
        return self._learner.models[self.names.index(name)]

    def check_rest(self) -> None:
        """Compare the published snapshots that lie before the log's end and were not passed."""
        for offset in [stop for stop in self._stops if stop > self._passed]:
            self._go(offset)
        checked = {*self.checks.equal, *self.checks.different}
        self.checks.unchecked = [name for name in self._published if name not in checked]

    def close(self) -> None:
        """Let go of the log."""
        self._cursor.close()

    def _taken(self, version: str) -> Model | str:
        if version in self._published and version not in self._beyond:
            try:
                self._beyond[version] = decode(
                    self._published[version], river_pickle=self._options.river_pickle
                )
            except SnapshotError as error:
                return str(error)
        found = self._beyond.get(version)
        if found is None or found.schema_hash != self._kernel.schema_hash:
            return "the training log ends before the version"
        return found.model

    def _go(self, offset: int) -> bool:
        """Stand at an offset within the log."""
        self._remember()
        here = self._learner.offset
        nearest = max((at for at in self._stands if at <= offset), default=0)
        if nearest != here:
            if self._again + offset - nearest > self._again_max:
                return False
            self._take_up(nearest)
        for stop in self._stops:
            if self._learner.offset < stop < offset and stop > self._passed:
                self._learn_to(stop)
        self._learn_to(offset)
        return True

    def _learn_to(self, offset: int) -> None:
        learner, before = self._learner, self._learner.offset
        for examples in self._cursor.until(offset):
            learner.learn(learner.fresh(examples), profiles=False)
            learner.profiles.offset = self._cursor.offset
            self._places.note(learner.place)
        learner.profiles.offset = offset
        self._again += max(0, min(offset, self._passed) - before)
        if offset > self._passed:
            self._passed = offset
            self._check(offset)

    def _remember(self) -> None:
        offset, learner = self._learner.offset, self._learner
        if offset not in self._stands:
            states = [(model.name, *model.state()) for model in learner.models]
            place = self._places.needed(learner.models) or learner.place
            self._stands[offset] = _Stand(place, states)
        self._stands.move_to_end(offset)
        while len(self._stands) > STANDS_MAX:
            self._stands.popitem(last=False)

    def _take_up(self, offset: int) -> None:
        if offset in self._stands:
            self._stands.move_to_end(offset)
            stand = self._stands[offset]
            models = [
                restored(name, header, arrays, river_pickle=self._options.river_pickle)
                for name, header, arrays in stand.states
            ]
            self._learner = self._learner_of(models)
            self._learner.go_back(stand.place)
        else:
            self._learner = self._fresh()
        self._cursor.close()
        self._cursor = TrainingCursor(self._log, self._learner.offset)
        self._learn_to(offset)

    def _fresh(self) -> Learner:
        return self._learner_of(
            [make_model(name, self._kernel.names, self._options) for name in self.names]
        )

    def _learner_of(self, models: Sequence[Model]) -> Learner:
        return Learner(self._schema, self._kernel.schema_hash, models)

    def _sorted_stops(self) -> list[int]:
        found = (split_version(version) for version in self._published)
        return sorted({parts[1] for parts in found if parts and 0 < parts[1] <= self.end})

    def _check(self, offset: int) -> None:
        """Compare what was published of this offset with the fold."""
        for model in self._learner.models:
            version = f"{model.name}@{offset}"
            value = self._published.get(version)
            if value is None:
                continue
            folded = encode(
                model,
                version=version,
                training_offset=offset,
                schema_hash=self._kernel.schema_hash,
            )
            (self.checks.equal if folded == value else self.checks.different).append(version)

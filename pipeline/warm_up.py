"""Compile or load every kernel before the first event, so that no event waits for a compiler."""

import numpy as np

from models import make_model
from pipeline.additions import additions_of, kinds_of, packed, unpacked
from pipeline.decision_json import COLUMNS_FROM, encode_decisions
from pipeline.engine import Engine, Version
from pipeline.events import Label, Transactions
from pipeline.features import unusual_amounts
from pipeline.feedback import MemoryWaiting
from pipeline.learner import Learner
from pipeline.profiles import MemoryProfiles
from pipeline.schema import Schema
from pipeline.settings import Settings

TIME_MS = 1_600_000_000_000


def warm_up(schema: Schema, settings: Settings, *, learns: bool = True) -> None:
    """Decide made-up events and learn one, in memory, with the models of the settings.

    `learns` is false where nothing is ever learned: some models load a library for it.
    """
    names = (settings.model, *settings.challenger_names)
    waiting = MemoryWaiting(limit=COLUMNS_FROM)
    learned = Learner(schema, "", ())
    engine = Engine(schema, settings, MemoryProfiles(schema, learned.profiles), waiting)
    kernel = engine.kernel
    models = [make_model(name, kernel.names, settings.model_options) for name in names]
    learner = Learner(schema, kernel.schema_hash, models)
    champion, *challengers = (Version(model, 0) for model in models)
    engine.adopt(champion, challengers)
    count = COLUMNS_FROM
    events = Transactions(
        transaction_id=[f"t{number}" for number in range(count)],
        event_time_ms=np.full(count, TIME_MS),
        keys=tuple(["k"] * count for _ in schema.keyed),
        amount_minor=np.full(count, 100),
        currency=["EUR"] * count,
        numbers=np.full((count, len(schema.numbers)), np.nan, dtype=np.float32),
    )
    decisions = engine.decide(events)
    encode_decisions(decisions, "", 0, range(count))
    waiting.add(decisions)
    unusual = unusual_amounts(decisions.features, schema)
    added = unpacked(packed(additions_of(events, unusual, schema, partition=0)))
    for number in range(len(schema.keyed)):
        for kind in kinds_of(schema, number):
            kind.record(kind.empty(1), np.zeros(count, np.int32), added.columns)
    label = Label("l", "t0", "k", True, "simulated", TIME_MS)
    examples = [item.example(partition=0) for item in engine.label([label], training_seq=0)]
    if learns:
        learner.learn(learner.fresh(examples))

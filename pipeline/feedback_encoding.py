"""Labels and outcomes in their wire form, in the field names and words of their schema.

>>> from pipeline.schema import load_schema
>>> encode_outcome(Outcome("t1", "c1", "settled", 5), load_schema("card")).decode()
'{"transaction_id":"t1","card_id":"c1","outcome":"settled","outcome_time":5}'
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from pipeline.events import Label, Outcome
from pipeline.schema import Schema


def encode_label(label: Label, schema: Schema) -> bytes:
    """Give a label's wire form, in the field names of its schema."""
    fields = schema.feedback
    record: Mapping[str, Any] = {
        fields.label_id: label.label_id,
        schema.event_id: label.transaction_id,
        schema.partition_key: label.key,
        fields.verdict: (fields.fraud if label.is_fraud else fields.genuine)[0],
        fields.source: _word_for(label.source, fields.sources),
        fields.time: label.label_time_ms,
        fields.by: label.by,
        fields.supersedes: label.supersedes,
    }
    return msgspec.json.encode({name: value for name, value in record.items() if value is not None})


def encode_outcome(outcome: Outcome, schema: Schema) -> bytes:
    """Give an outcome's wire form, in the field names of its schema."""
    fields = schema.outcomes
    return msgspec.json.encode(
        {
            schema.event_id: outcome.transaction_id,
            schema.partition_key: outcome.key,
            fields.outcome: _word_for(outcome.outcome, fields.words),
            fields.time: outcome.outcome_time_ms,
        }
    )


def _word_for(ours: str, words: Mapping[str, str]) -> str:
    """Give the first word of a schema that stands for one of ours."""
    return next((word for word, meant in words.items() if meant == ours), ours)

"""Batches to a CSV or Parquet file, one batch at a time.

Columns carry the schema's names, so that `read_events` and any data tool can take the file; the
label and the scenario stand beside them. The file appears under its name when it is whole.

>>> import tempfile
>>> from pipeline.schema import load_schema
>>> from producers.simulator import SimulatorOptions, simulate
>>> path = Path(tempfile.mkdtemp()) / "day.csv"
>>> days = simulate(SimulatorOptions(customers=10, terminals=10, days=1))
>>> write_events(path, (day.slice(0, 2) for day in days), load_schema("card"))
2
>>> print(path.read_text())
transaction_id,event_time,card_id,terminal_id,amount,currency,is_fraud,scenario,response_code
t-0-0,2018-04-01T02:52:18.092Z,c5,m0,51.20,EUR,0,0,
...
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.incumbent import IncumbentFields
from pipeline.schema import Schema
from producers.batch import LABEL_UNKNOWN, EventBatch
from producers.datasets import CSV, PARQUET
from producers.encoding import amount_texts, incumbent_columns, response_column

LABEL_COLUMN = "is_fraud"
SCENARIO_COLUMN = "scenario"
PARTIAL = ".partial"

Write = Callable[[EventBatch], None]


def write_events(
    path: Path, batches: Iterable[EventBatch], schema: Schema, *, incumbents: bool = False
) -> int:
    """Write batches to a file that ends in .csv or .parquet; gives the number of events.

    With `incumbents` there are columns for what the present system said.
    """
    if path.suffix not in (CSV, PARQUET):
        raise DataError(f"{path.name}: a file must end in {CSV} or {PARQUET}")
    partial = path.with_name(path.name + PARTIAL)
    opened = _parquet if path.suffix == PARQUET else _csv
    count = 0
    try:
        with opened(partial, schema, schema.incumbent if incumbents else None) as write:
            for batch in batches:
                write(batch)
                count += len(batch)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


@contextmanager
def _csv(path: Path, schema: Schema, incumbent: IncumbentFields | None) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        names = [*_names(schema), *(incumbent.fields if incumbent else ())]
        pd.DataFrame(columns=names).to_csv(file, index=False)

        def write(batch: EventBatch) -> None:
            times = np.datetime_as_string(batch.event_time_ms.astype("datetime64[ms]"), unit="ms")
            amounts = amount_texts(batch.amount_minor.tolist(), schema.minor_digits)
            columns = _columns(batch, schema, np.char.add(times, "Z"), amounts)
            columns |= _incumbents(batch, incumbent)
            pd.DataFrame(columns).to_csv(file, index=False, header=False)

        yield write


@contextmanager
def _parquet(path: Path, schema: Schema, incumbent: IncumbentFields | None) -> Iterator[Write]:
    kinds = _columns_of_kinds(schema, incumbent)
    with pq.ParquetWriter(path, kinds, compression="zstd") as writer:

        def write(batch: EventBatch) -> None:
            # The shortest decimal of the quotient is the amount, so that nothing is lost.
            amounts = batch.amount_minor / 10**schema.minor_digits
            columns = _columns(batch, schema, batch.event_time_ms, amounts)
            columns |= _incumbents(batch, incumbent)
            writer.write_table(pa.table(columns, schema=kinds))

        yield write


def _columns_of_kinds(schema: Schema, incumbent: IncumbentFields | None) -> Any:
    kinds = dict.fromkeys(_names(schema), pa.string())
    kinds |= {schema.event_time: pa.timestamp("ms", tz="UTC")}
    kinds |= {schema.amount: pa.float64()} if schema.amount else {}
    kinds |= {number.field: pa.float32() for number in schema.numbers}
    kinds |= {_label(schema): pa.int8(), SCENARIO_COLUMN: pa.int8()}
    kinds |= {incumbent.score: pa.float64()} if incumbent and incumbent.score else {}
    kinds |= {incumbent.action: pa.string()} if incumbent and incumbent.action else {}
    return pa.schema(kinds.items())


def _names(schema: Schema) -> list[str]:
    answer = [schema.response] if schema.response else []
    return [*schema.event_fields, _label(schema), SCENARIO_COLUMN, *answer]


def _label(schema: Schema) -> str:
    return schema.label or LABEL_COLUMN


def _columns(batch: EventBatch, schema: Schema, times: Any, amounts: Any) -> dict[str, Any]:
    scenario = batch.scenario if batch.scenario is not None else np.zeros(len(batch), np.int8)
    columns = [batch.transaction_id, times, *batch.keys[int(schema.is_keyed_by_id) :]]
    columns += [amounts] if schema.amount else []
    columns += [batch.currency] if schema.currency else []
    unknown = batch.is_fraud == LABEL_UNKNOWN
    labels = pd.arrays.IntegerArray(batch.is_fraud, unknown) if unknown.any() else batch.is_fraud
    columns += [*batch.categories, *batch.numbers.T, labels, scenario]
    if schema.response:
        declined = np.zeros(len(batch), np.bool_) if batch.declined is None else batch.declined
        columns.append(response_column(declined, schema.declined, missing=None))
    return dict(zip(_names(schema), columns, strict=True))


def _incumbents(batch: EventBatch, incumbent: IncumbentFields | None) -> dict[str, Any]:
    if incumbent is None:
        return {}
    given = batch.incumbents or (None,) * len(batch)
    said = incumbent_columns(given, incumbent, missing=None)
    return dict(zip(incumbent.fields, said, strict=True))

"""What `fraudstream scan` looks into: topics, a Redis, files and folders, pages of metrics.

Each function looks at one of them whole, and tells `moved` how far it is.
"""

import gzip
import os
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from redis import Redis

from consumers.log_reader import LogReader
from pipeline.card_numbers import NUMBER_MIN
from pipeline.card_scan import CardScan
from pipeline.errors import DataError

CHUNK_BYTES = 4 * 1024 * 1024
# A chunk is cut behind a byte that is none of these, so that no number or base64 is cut in two.
WORD_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-. \\"
# A double holds no number of more digits than this exactly.
WHOLE_FLOAT_MAX = 1e19
LINE_END = b"\n"
PARQUET_ROWS = 65_536
REDIS_ITEMS = 1_000
PAGE_SECONDS_MAX = 10.0

Moved = Callable[[int, str], None]


def scan_topic(scan: CardScan, servers: str, topic: str, moved: Moved) -> None:
    """Look at keys, values and headers of a topic, from its beginning to the end of now."""
    where = f"topic {topic}"
    try:
        reader = LogReader(servers, topic)
    except DataError as error:
        scan.cannot_read(where, str(error))
        return
    with reader:
        for chunk in reader.chunks():
            for record in chunk:
                at = f"partition {record.partition} offset {record.offset}"
                scan.text(where, record.key, f"{at} key")
                scan.text(where, record.value, f"{at} value")
                for name, text in record.headers:
                    scan.text(where, name, f"{at} name of a header")
                    scan.text(where, text, f"{at} header {name}")
            scan.looked_at["records"] += len(chunk)
            moved(len(chunk), where)


def scan_redis(scan: CardScan, redis: Redis, moved: Moved) -> None:
    """Look at the names and contents of every key of one database."""
    cursor = -1
    while cursor:
        found: tuple[int, list[Any]] = redis.scan(max(cursor, 0), count=REDIS_ITEMS)
        cursor, keys = found
        with redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.type(key)
            kinds = pipe.execute()
        for key, kind in zip(keys, kinds, strict=True):
            _scan_key(scan, redis, key, kind.decode())
        moved(len(keys), "redis")


def _scan_key(scan: CardScan, redis: Any, key: bytes, kind: str) -> None:
    where = f"redis key {key.decode(errors='backslashreplace')}"
    scan.text(where, key, "name")
    contents = _CONTENTS.get(kind)
    if contents is not None:
        for item in contents(redis, key):
            scan.text(where, item, kind)
    elif kind != "none":
        # A key that went away meanwhile is of no kind.
        scan.cannot_read(where, f"its kind is {kind}")
    scan.looked_at["redis keys"] += 1


def _list(redis: Any, key: bytes) -> Iterator[bytes]:
    start = 0
    while items := redis.lrange(key, start, start + REDIS_ITEMS - 1):
        yield from items
        start += len(items)


def _stream(redis: Any, key: bytes) -> Iterator[bytes]:
    first = "-"
    while entries := redis.xrange(key, min=first, count=REDIS_ITEMS):
        for number, fields in entries:
            yield from (part for pair in (fields or {}).items() for part in pair)
            first = f"({number.decode()}"


def _pairs(pairs: Iterable[tuple[Any, Any]]) -> Iterator[bytes]:
    for name, value in pairs:
        yield name
        yield value if isinstance(value, bytes) else repr(value).encode()


_CONTENTS: dict[str, Callable[[Any, bytes], Iterable[bytes]]] = {
    "string": lambda redis, key: [redis.get(key) or b""],
    "hash": lambda redis, key: _pairs(redis.hscan_iter(key, count=REDIS_ITEMS)),
    "list": _list,
    "set": lambda redis, key: redis.sscan_iter(key, count=REDIS_ITEMS),
    "zset": lambda redis, key: _pairs(redis.zscan_iter(key, count=REDIS_ITEMS)),
    "stream": _stream,
}


def scan_page(scan: CardScan, url: str, moved: Moved) -> None:
    """Look at a page, such as a process's metrics."""
    try:
        with urllib.request.urlopen(url, timeout=PAGE_SECONDS_MAX) as answer:
            page = answer.read()
    except (OSError, ValueError) as error:
        scan.cannot_read(url, str(error))
        return
    scan.text(f"page {url}", page, lambda start: _line(page, start))
    scan.looked_at["pages"] += 1
    moved(len(page), url)


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Give the files that are named or lie in named folders; links in folders are not followed."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        for folder, _, names in os.walk(path):
            inside = (Path(folder) / name for name in sorted(names))
            found += [file for file in inside if file.is_file() and not file.is_symlink()]
    return found


def scan_file(scan: CardScan, path: Path, moved: Moved) -> None:
    """Look at a file: Parquet by its values, `.gz` by what is packed, any other by its bytes."""
    where = f"file {path}"
    scan.text(where, path.name, "name")
    try:
        if path.suffix == ".parquet":
            _scan_parquet(scan, where, path, moved)
        elif path.suffix == ".gz":
            with gzip.open(path, "rb") as packed:
                _scan_stream(scan, where, packed, moved)
        else:
            with path.open("rb") as file:
                _scan_stream(scan, where, file, moved)
    except (OSError, EOFError, pa.ArrowException) as error:
        scan.cannot_read(where, str(error).splitlines()[0])
        return
    scan.looked_at["files"] += 1


def _scan_stream(scan: CardScan, where: str, file: IO[bytes] | Any, moved: Moved) -> None:
    rest, lines = b"", 0
    while chunk := file.read(CHUNK_BYTES):
        data = rest + chunk
        cut = len(data.rstrip(WORD_BYTES)) or len(data)
        part, rest = data[:cut], data[cut:]
        _scan_lines(scan, where, part, lines)
        lines += part.count(b"\n")
        moved(len(chunk), where)
    _scan_lines(scan, where, rest, lines)


def _scan_lines(scan: CardScan, where: str, part: bytes, lines: int) -> None:
    scan.text(where, part, lambda start: _line(part, start, lines))


def _line(text: bytes, start: int, lines: int = 0) -> str:
    return f"line {lines + text.count(LINE_END, 0, start) + 1:,}"


def _scan_parquet(scan: CardScan, where: str, path: Path, moved: Moved) -> None:
    with pq.ParquetFile(path) as file:
        for name, text in (file.metadata.metadata or {}).items():
            scan.text(where, name + b" " + text, "metadata")
        for name in file.schema_arrow.names:
            scan.text(where, name, "name of a column")
        first, rows = 1, max(file.metadata.num_rows, 1)
        size = path.stat().st_size
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                _scan_column(scan, where, name, column, first)
            first += batch.num_rows
            moved(size * batch.num_rows // rows, where)


def _scan_column(scan: CardScan, where: str, name: str, column: Any, first: int) -> None:
    texts = [text or b"" for text in _as_bytes(column)]
    ends = np.array(list(accumulate(len(text) + 1 for text in texts)))

    def place(start: int) -> str:
        return f"row {first + int(np.searchsorted(ends, start, side='right')):,} column {name}"

    scan.text(where, b"\n".join(texts), place)


def _as_bytes(column: Any) -> list[bytes | None]:
    kind = column.type
    if pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
        return []
    if pa.types.is_dictionary(kind):
        return _as_bytes(column.dictionary_decode())
    if pa.types.is_floating(kind):
        # As a text it would have an exponent; only a whole one can be a card's.
        values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
        can_be = (values >= NUMBER_MIN) & (values < WHOLE_FLOAT_MAX)
        return [b"%.0f" % value if can_be[row] else None for row, value in enumerate(values)]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        found: list[bytes | None] = pc.cast(pc.cast(column, pa.string()), pa.binary()).to_pylist()
        return found
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return list(column.to_pylist())
    return [None if value is None else repr(value).encode() for value in column.to_pylist()]

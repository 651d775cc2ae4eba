"""The scanner finds a planted number in every kind of file, and shows none."""

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pipeline.card_scan import PLACES_MAX, CardScan
from pipeline.settings import Settings
from producers.simulator import SimulatorOptions, simulate
from producers.writing import write_events
from stack import scan_sources
from stack.scan_command import scan
from tests.card_numbers import CARDS, grouped
from tests.strategies import CARD

NUMBER = CARDS[0]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(scan, [str(text) for text in arguments], obj=Settings())


def answer(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = run(*arguments, "--json")
    assert NUMBER not in result.output and grouped(NUMBER, "-") not in result.output
    return result.exit_code, json.loads(result.stdout)


def text_file(path: Path) -> None:
    path.write_text(f"one\ntwo {grouped(NUMBER, '-')}\n")


def packed_file(path: Path) -> None:
    path.write_bytes(gzip.compress(f"one\ntwo {NUMBER}\n".encode()))


def encoded_file(path: Path) -> None:
    inside = base64.b64encode(b"\x00\x01" + NUMBER.encode() + b"\x02").decode()
    path.write_text(f'{{"a":1}}\n{{"features":"{inside}"}}\n')


def url_encoded_file(path: Path) -> None:
    inside = base64.urlsafe_b64encode(b"\xff\xfe\xfb" + NUMBER.encode()).decode()
    path.write_text(f"one\n{inside.rstrip('=')}\n")


def escaped_file(path: Path) -> None:
    path.write_text('one\n{"card":"\\u0034' + NUMBER[1:] + '"}\n')


def parquet_of(values: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pd.DataFrame({"n": [1, 2], "column": values}).to_parquet(path, index=False)

    return write


FILES = {
    "a.log": text_file,
    "b.json.gz": packed_file,
    "c.json": encoded_file,
    "d.txt": url_encoded_file,
    "e.json": escaped_file,
    "text.parquet": parquet_of(["", f"pan {NUMBER}"]),
    "whole.parquet": parquet_of(np.array([7, int(NUMBER)])),
    "float.parquet": parquet_of(np.array([np.nan, float(NUMBER)])),
    "bytes.parquet": parquet_of([b"", NUMBER.encode()]),
    "nested.parquet": parquet_of([[], [{"code": NUMBER}]]),
    "category.parquet": parquet_of(pd.Categorical(["a", NUMBER])),
}


@pytest.mark.parametrize("name", FILES)
def test_a_planted_number_is_found_in_each_kind_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    FILES[name](tmp_path / "sub" / name)
    (tmp_path / "clean.log").write_text("1793534400000 0.4111111111111111\n")

    code, found = answer(tmp_path)

    assert (code, found["found"], found["looked_at"]) == (1, 1, {"files": 2})
    [place] = found["places"]
    assert place["where"] == f"file {tmp_path / 'sub' / name}"
    assert "2" in place["place"].split(" ", 1)[1]
    assert place["digits"] == 16


def test_a_name_is_looked_at_and_shown_masked(tmp_path: Path) -> None:
    (tmp_path / f"{NUMBER}.log").write_text("")

    code, found = answer(tmp_path)

    assert code == 1
    assert found["places"][0]["place"] == "name"


def test_the_same_number_has_the_same_mark_and_in_another_run_another(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(f"{CARDS[0]}\n{CARDS[1]}\n{grouped(CARDS[0], ' ')}\n")

    _, found = answer(tmp_path)
    marks = [place["mark"] for place in found["places"]]

    assert marks[0] == marks[2] != marks[1]
    assert (found["found"], found["different_numbers"]) == (3, 2)
    assert marks[0] != answer(tmp_path)[1]["places"][0]["mark"]


@given(st.data())
def test_where_a_file_is_cut_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    encoded = base64.b64encode(NUMBER.encode()).decode()
    pieces = st.sampled_from([NUMBER, grouped(NUMBER, "-"), encoded, "x", "{", "\n", ",", "12"])
    parts = data.draw(st.lists(pieces, max_size=12))
    text = ";".join(parts).encode()
    path = tmp_path_factory.mktemp("cut") / "a.log"
    path.write_bytes(text)
    whole, cut = CardScan(b"key"), CardScan(b"key")
    whole.text(f"file {path}", text, lambda start: f"line {text.count(b'{', 0, start)}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_sources, "CHUNK_BYTES", data.draw(st.integers(40, 60)))
        scan_sources.scan_file(cut, path, lambda count, what: None)

    assert cut.hits == whole.hits
    numbers = sum(part in (NUMBER, grouped(NUMBER, "-"), encoded) for part in parts)
    assert whole.hits.total() == numbers


def test_a_file_full_of_numbers_is_counted_whole_and_listed_in_part(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{NUMBER}\n" * 3_000)

    code, found = answer(tmp_path)

    assert (code, found["found"], len(found["places"])) == (1, 3_000, PLACES_MAX)
    assert "and 2,950 more" in run(tmp_path).stdout


def test_nothing_of_ours_is_taken_for_a_card_number(tmp_path: Path) -> None:
    days = list(simulate(SimulatorOptions(customers=300, terminals=100, days=20)))
    write_events(tmp_path / "a.parquet", days, CARD)
    write_events(tmp_path / "a.csv", days, CARD)

    code, found = answer(tmp_path)

    assert (code, found["found"]) == (0, 0)
    assert found["looked_at"] == {"files": 2}


def test_what_cannot_be_read_is_said_and_is_not_clean(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no Parquet")
    (tmp_path / "b.gz").write_bytes(b"no gzip")

    code, found = answer(tmp_path)

    assert (code, len(found["could_not_read"])) == (2, 2)
    assert "could not read" in run(tmp_path).stderr


def test_wrong_use_is_exit_2(tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run(tmp_path / "nowhere").exit_code == 2
    assert run("--redis").exit_code == 2
    assert run("http://127.0.0.1:1/metrics").exit_code == 2


def test_the_table_says_where(tmp_path: Path) -> None:
    text_file(tmp_path / "a.log")

    result = run(tmp_path / "a.log")

    assert result.exit_code == 1
    assert "line 2" in result.stdout and "1 card numbers found, 1 different" in result.stdout

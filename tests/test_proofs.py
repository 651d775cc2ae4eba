"""A proof that cannot be made is said, not passed over."""

import pytest

from tests.proofs import DATA_VARIABLE, NOT_MADE, data_file, program


@pytest.mark.parametrize("folder", [None, "empty"])
def test_data_that_is_missing_is_a_proof_not_made(
    folder: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    if folder:
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))

    with pytest.raises(pytest.skip.Exception, match=NOT_MADE):
        data_file("none.parquet")


def test_a_program_that_is_missing_is_a_proof_not_made() -> None:
    with pytest.raises(pytest.skip.Exception, match=NOT_MADE):
        program("no-such-program")

"""Keys are files of their owner's alone; several are valid at once, and the newest signs."""

import os
import stat
from pathlib import Path

import pytest

from pipeline.errors import KeyFileError
from pipeline.keys import (
    LABEL_SOURCES,
    init_keys,
    label_keys,
    private_keys,
    public_keys,
    retire,
    rotate,
)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def test_each_source_the_models_and_the_operator_get_a_key_once(tmp_path: Path) -> None:
    made = init_keys(tmp_path)

    assert [key_id.rsplit("-", 2)[0] for key_id in made] == [*LABEL_SOURCES, "models", "operator"]
    assert init_keys(tmp_path) == []
    assert "matured" not in LABEL_SOURCES
    assert modes(tmp_path / "labels") == modes(tmp_path / "private") == {0o600}
    assert modes(tmp_path / "public") == {0o644}
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    assert private_keys(tmp_path).ids == public_keys(tmp_path).ids == made[-2:]


def test_where_public_keys_were_brought_no_pair_is_made(tmp_path: Path) -> None:
    init_keys(tmp_path)
    (tmp_path / "private").rename(tmp_path / "elsewhere")

    assert init_keys(tmp_path) == []


def test_a_mask_that_takes_away_more_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0o777 & ~0o700)
    try:
        init_keys(tmp_path)
    finally:
        os.umask(before)

    assert modes(tmp_path / "public") == {0o644}


def test_the_newest_key_signs_and_the_older_stay_valid(tmp_path: Path) -> None:
    first = init_keys(tmp_path, ["analyst"])
    later = [rotate(tmp_path, "analyst") for _ in range(11)]

    keys = label_keys(tmp_path)

    # As numbers: 12 comes after 9.
    assert keys.ids == [*first, *later]
    current = keys.current("analyst")
    assert current is not None
    assert current[0] == later[-1]
    assert later[-1].startswith("analyst-12-")
    assert len({keys.get(key_id) for key_id in keys.ids}) == 12


def test_keys_that_are_added_and_retired_are_seen(tmp_path: Path) -> None:
    init_keys(tmp_path)
    keys = label_keys(tmp_path)
    [old] = [key_id for key_id in keys.ids if key_id.startswith("analyst-")]
    new = rotate(tmp_path, "analyst")
    assert keys.get(new) is None

    keys.refresh()
    assert keys.get(new) is not None

    assert [file.name for file in retire(tmp_path, old)] == [f"{old}.key"]
    keys.refresh()
    assert keys.get(old) is None


def test_both_halves_of_a_models_key_are_retired(tmp_path: Path) -> None:
    [old] = init_keys(tmp_path, ["models"])
    rotate(tmp_path, "models")

    assert len(retire(tmp_path, old)) == 2
    assert old not in (*private_keys(tmp_path).ids, *public_keys(tmp_path).ids)


@pytest.mark.parametrize("owner", ["analyst", "models", "operator"])
def test_the_key_that_signs_is_not_retired(tmp_path: Path, owner: str) -> None:
    [only] = init_keys(tmp_path, [owner])

    with pytest.raises(KeyFileError, match=rf"{only} is what {owner} signs with: rotate it first"):
        retire(tmp_path, only)
    with pytest.raises(KeyFileError, match="there is no key 'analyst-9-0000'"):
        retire(tmp_path, "analyst-9-0000")
    with pytest.raises(KeyFileError, match="no keys of 'matured'"):
        rotate(tmp_path, "matured")


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o601])
@pytest.mark.parametrize("folder", ["labels", "private"])
def test_a_secret_that_others_can_reach_is_refused(tmp_path: Path, folder: str, mode: int) -> None:
    init_keys(tmp_path)
    file = sorted((tmp_path / folder).iterdir())[0]
    read = {"labels": label_keys, "private": private_keys}[folder]
    file.chmod(mode)

    with pytest.raises(KeyFileError, match=rf"its mode is {mode:04o}\): chmod 0600 it"):
        read(tmp_path)

    file.chmod(0o400)
    assert read(tmp_path).ids


def test_a_public_key_that_others_can_write_is_refused(tmp_path: Path) -> None:
    init_keys(tmp_path, ["models"])
    [file] = (tmp_path / "public").iterdir()
    file.chmod(0o664)

    with pytest.raises(KeyFileError, match=r"must not be writable by others \(its mode is 0664\)"):
        public_keys(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("labels/analyst-1-0000.key", b"", r"32 bytes in hex \(got 0\)"),
        ("labels/analyst-1-0000.key", b"00" * 31, r"32 bytes in hex \(got 31\)"),
        ("labels/analyst-1-0000.key", b"zz" * 32, "non-hexadecimal"),
        ("labels/analyst-1-0000.key", b"\xff" * 64, "cannot be read"),
        ("labels/matured-1-0000.key", b"00" * 32, "its name must match"),
        ("labels/analyst-0-0000.key", b"00" * 32, "its name must match"),
        ("labels/README", b"hello", "its name must match"),
        ("private/models-1-0000.pem", b"hello", "cannot be read"),
        ("public/models-1-0000.pem", b"", "cannot be read"),
    ],
)
def test_what_is_no_key_is_refused_with_its_place(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir()
    file.write_bytes(data)
    file.chmod(0o600)
    read = {"labels": label_keys, "private": private_keys, "public": public_keys}[file.parent.name]

    with pytest.raises(KeyFileError, match=said) as raised:
        read(tmp_path)
    assert str(file) in str(raised.value)


def test_a_private_key_in_place_of_a_public_one_is_refused(tmp_path: Path) -> None:
    [key_id] = init_keys(tmp_path, ["models"])
    private = (tmp_path / "private" / f"{key_id}.pem").read_bytes()
    (tmp_path / "public" / f"{key_id}.pem").write_bytes(private)

    with pytest.raises(KeyFileError, match="cannot be read"):
        public_keys(tmp_path)


def test_a_folder_that_breaks_later_leaves_the_keys_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init_keys(tmp_path)
    keys = label_keys(tmp_path)
    ids = keys.ids
    (tmp_path / "labels" / f"{ids[0]}.key").chmod(0o644)

    keys.refresh()

    assert keys.ids == ids
    assert "keys are kept as they were" in caplog.text

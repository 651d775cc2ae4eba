"""The keys that labels, models and controls are signed with: files that only their owner can read.

    labels/    SOURCE-N-HHHH.key    32 bytes in hex, shared by those who sign and those who check
    private/   models-N-HHHH.pem    Ed25519, for the trainer alone
    public/    models-N-HHHH.pem    its other half, for all who read models

Controls are signed as models are, by `operator-N-HHHH.pem` of those who operate.

The name of a file is the key's id: whose it is, its number, and four hex digits of chance, so that
two machines never name two keys alike. Several keys of one owner are valid at once; the one of the
highest number is the current one and signs. Who has no business with a folder is not given it.

>>> key_parts("analyst-2-9f3c.key", LABEL_KEY)
('analyst', 2)
>>> key_parts("matured-1-9f3c.key", LABEL_KEY) is None    # the labeller's own word is never sent
True
"""

import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipeline.errors import KeyFileError
from pipeline.events import SOURCES, Source

logger = logging.getLogger(__name__)

K = TypeVar("K")

LABEL_SOURCES: tuple[Source, ...] = tuple(source for source in SOURCES if source != "matured")
"""Who may speak in a label: maturity is the labeller's own and never travels."""
MODELS_OWNER, OPERATOR_OWNER = "models", "operator"
PAIR_OWNERS = (MODELS_OWNER, OPERATOR_OWNER)
"""Who signs with a private key that those who check have not."""

LABELS, PRIVATE, PUBLIC = "labels", "private", "public"
NUMBER = r"-([1-9][0-9]{0,5})-[0-9a-f]{4}"
LABEL_KEY = re.compile(rf"({'|'.join(LABEL_SOURCES)}){NUMBER}\.key")
PAIR_KEY = re.compile(rf"({'|'.join(PAIR_OWNERS)}){NUMBER}\.pem")

SECRET_BYTES = 32
FILE_BYTES_MAX = 4_096
PRIVATE_MODE, PUBLIC_MODE, FOLDER_MODE = 0o600, 0o644, 0o700
OTHERS, GROUP, WRITE_OF_OTHERS = 0o007, 0o070, 0o022


def key_parts(name: str, pattern: re.Pattern[str]) -> tuple[str, int] | None:
    """Give the owner and the number that a file's name says; `None` if it is not a key's."""
    found = pattern.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def owner_of(key_id: str) -> str:
    """Give the owner that a key's id begins with."""
    return key_id.rsplit("-", 2)[0]


def number_of(key_id: str) -> int:
    """Give the number that a key's id holds."""
    return int(key_id.rsplit("-", 2)[1])


class KeyFolder(Generic[K]):
    """The keys of one folder, by id; `refresh` sees what was added and taken away.

    Parameters
    ----------
    read
        Makes a key of a file's bytes; raises `ValueError` where there is none in it.
    is_secret
        Whether nobody but the owner may read a file.
    """

    def __init__(
        self,
        path: Path,
        pattern: re.Pattern[str],
        read: Callable[[bytes], K],
        *,
        is_secret: bool = True,
    ) -> None:
        self.path = path
        self._pattern, self._read, self._is_secret = pattern, read, is_secret
        self._keys: dict[str, K] = {}
        self._seen: object = None
        self.load()

    def load(self) -> None:
        """Read the folder if it has changed; a folder that is not there has no keys."""
        files = self._files()
        seen = [(file.name, item.st_mtime_ns, item.st_ino, item.st_mode) for file, item in files]
        if seen != self._seen:
            self._keys = {file.stem: self._key(file, item) for file, item in files}
            self._seen = seen

    def refresh(self) -> None:
        """Read the folder if it has changed; where that cannot be done, keep what is known."""
        try:
            self.load()
        except KeyFileError as error:
            logger.error("keys are kept as they were: %s", error)

    def get(self, key_id: str) -> K | None:
        """Give a key by its id."""
        return self._keys.get(key_id)

    @property
    def ids(self) -> list[str]:
        """The ids of the valid keys, by owner, the oldest first."""
        return sorted(self._keys, key=lambda key_id: (owner_of(key_id), number_of(key_id), key_id))

    def current(self, owner: str) -> tuple[str, K] | None:
        """Give the key that its owner signs with, and its id; `None` where there is none."""
        ids = [key_id for key_id in self.ids if owner_of(key_id) == owner]
        return (ids[-1], self._keys[ids[-1]]) if ids else None

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        try:
            names = sorted(name for name in os.listdir(self.path) if not name.startswith("."))
            return [(self.path / name, (self.path / name).stat()) for name in names]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeyFileError(f"keys in {self.path}: {error.strerror}") from error

    def _key(self, file: Path, found: os.stat_result) -> K:
        if not self._pattern.fullmatch(file.name):
            raise KeyFileError(
                f"{file} is no key: its name must match {self._pattern.pattern}; take it away"
            )
        self._check_mode(file, found)
        try:
            with file.open("rb") as opened:
                return self._read(opened.read(FILE_BYTES_MAX))
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"key {file} cannot be read: {error}") from error

    def _check_mode(self, file: Path, found: os.stat_result) -> None:
        # A file of root's may be read by our group, which is how secrets are mounted.
        is_roots = found.st_uid == 0 and os.geteuid() != 0
        refused = OTHERS | (0 if is_roots else GROUP) if self._is_secret else WRITE_OF_OTHERS
        if not stat.S_ISREG(found.st_mode) or found.st_mode & refused:
            what = "readable by nobody but its owner" if self._is_secret else "writable by others"
            said = f"must be {what}" if self._is_secret else f"must not be {what}"
            mode = PRIVATE_MODE if self._is_secret else PUBLIC_MODE
            raise KeyFileError(
                f"key {file} {said} (its mode is {stat.S_IMODE(found.st_mode):04o}): "
                f"chmod {mode:04o} it, and rotate it if others may have read it"
            )


def label_keys(keys_dir: Path) -> KeyFolder[bytes]:
    """Give the keys that labels are signed and checked with."""
    return KeyFolder(keys_dir / LABELS, LABEL_KEY, _secret)


def private_keys(keys_dir: Path) -> KeyFolder[Ed25519PrivateKey]:
    """Give the keys that models and controls are signed with."""
    return KeyFolder(keys_dir / PRIVATE, PAIR_KEY, _private)


def public_keys(keys_dir: Path) -> KeyFolder[Ed25519PublicKey]:
    """Give the keys that models and controls are checked with."""
    return KeyFolder(keys_dir / PUBLIC, PAIR_KEY, _public, is_secret=False)


def init_keys(keys_dir: Path, owners: Iterable[str] = (*LABEL_SOURCES, *PAIR_OWNERS)) -> list[str]:
    """Make a first key for each owner that has none; gives the ids of the keys that were made."""
    labels, private, public = (make(keys_dir) for make in (label_keys, private_keys, public_keys))
    made = []
    for owner in owners:
        # Where public keys were brought here, the trainer is elsewhere, and its keys are.
        there = (private, public) if owner in PAIR_OWNERS else (labels,)
        if not any(folder.current(owner) for folder in there):
            made.append(rotate(keys_dir, owner))
    return made


def rotate(keys_dir: Path, owner: str) -> str:
    """Make a new key, which its owner signs with from now on; gives its id."""
    if owner not in (*LABEL_SOURCES, *PAIR_OWNERS):
        known = ", ".join((*LABEL_SOURCES, *PAIR_OWNERS))
        raise KeyFileError(f"no keys of {owner!r}: there are those of {known}")
    folder = public_keys(keys_dir) if owner in PAIR_OWNERS else label_keys(keys_dir)
    current = folder.current(owner)
    number = number_of(current[0]) + 1 if current else 1
    key_id = f"{owner}-{number}-{secrets.token_hex(2)}"
    if owner not in PAIR_OWNERS:
        secret = secrets.token_hex(SECRET_BYTES).encode() + b"\n"
        _write(keys_dir / LABELS / f"{key_id}.key", secret, PRIVATE_MODE)
        return key_id
    key = Ed25519PrivateKey.generate()
    # The public half first: nothing is signed with a key that nobody can check.
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write(keys_dir / PUBLIC / f"{key_id}.pem", public, PUBLIC_MODE)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(keys_dir / PRIVATE / f"{key_id}.pem", private, PRIVATE_MODE)
    return key_id


def retire(keys_dir: Path, key_id: str) -> list[Path]:
    """Delete a key, so that nothing it signed is accepted any more; gives the files it was in."""
    files = [file for file in key_files(keys_dir) if file.stem == key_id]
    if not files:
        raise KeyFileError(f"there is no key {key_id!r} in {keys_dir}")
    owner = owner_of(key_id)
    folder = public_keys(keys_dir) if owner in PAIR_OWNERS else label_keys(keys_dir)
    current = folder.current(owner)
    if current and current[0] == key_id:
        raise KeyFileError(
            f"{key_id} is what {owner} signs with: rotate it first (fraudstream keys rotate "
            f"{owner})"
        )
    for file in files:
        file.unlink()
    return files


def key_files(keys_dir: Path) -> list[Path]:
    """List the files that are named as keys."""
    patterns = ((LABELS, LABEL_KEY), (PRIVATE, PAIR_KEY), (PUBLIC, PAIR_KEY))
    return [
        file
        for name, pattern in patterns
        for file in sorted((keys_dir / name).glob("*"))
        if pattern.fullmatch(file.name)
    ]


def _write(file: Path, data: bytes, mode: int) -> None:
    """Write a key whole or not at all, with its mode from the first moment."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        # The process's mask may have taken more away than it should.
        partial.chmod(mode)
        partial.rename(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise KeyFileError(f"key {file} cannot be written: {error.strerror}") from error


def _secret(data: bytes) -> bytes:
    secret = bytes.fromhex(data.decode("ascii"))
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"it must hold {SECRET_BYTES} bytes in hex (got {len(secret)})")
    return secret


def _private(data: bytes) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(data, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"it must be an Ed25519 key (got {type(key).__name__})")
    return key


def _public(data: bytes) -> Ed25519PublicKey:
    key = serialization.load_pem_public_key(data)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"it must be an Ed25519 key (got {type(key).__name__})")
    return key

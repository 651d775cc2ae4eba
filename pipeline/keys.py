"""The keys of labels, models, controls and card tokens: files that only their owner can read.

    labels/    SOURCE-N-HHHH.key    32 bytes in hex, shared by those who sign and those who check
    private/   models-N-HHHH.pem    Ed25519, for the trainer alone
    public/    models-N-HHHH.pem    its other half, for all who read models
    tokens/    card-tokens-N-HHHH.key    32 bytes in hex, and from when on; for producers alone

Controls are signed as models are, by `operator-N-HHHH.pem` of those who operate.

The name of a file is the key's id: whose it is, its number, and four hex digits of chance, so that
two machines never name two keys alike. Several keys of one owner are valid at once; the one of the
highest number is the current one and signs. Who has no business with a folder is not given it.
Which key of `card-tokens` is in force depends on an event's time: `pipeline.tokens` tells.

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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipeline.errors import KeyFileError
from pipeline.label_words import SOURCES, Source

logger = logging.getLogger(__name__)

K = TypeVar("K")

LABEL_SOURCES: tuple[Source, ...] = tuple(source for source in SOURCES if source != "matured")
"""Who may speak in a label: maturity is the labeller's own and never travels."""
MODELS_OWNER, OPERATOR_OWNER, TOKENS_OWNER = "models", "operator", "card-tokens"
PAIR_OWNERS = (MODELS_OWNER, OPERATOR_OWNER)
"""Who signs with a private key that those who check have not."""

LABELS, PRIVATE, PUBLIC, TOKENS = "labels", "private", "public", "tokens"
NUMBER = r"-([1-9][0-9]{0,5})-[0-9a-f]{4}"
LABEL_KEY = re.compile(rf"({'|'.join(LABEL_SOURCES)}){NUMBER}\.key")
PAIR_KEY = re.compile(rf"({'|'.join(PAIR_OWNERS)}){NUMBER}\.pem")
TOKEN_KEY = re.compile(rf"({TOKENS_OWNER}){NUMBER}\.key")

SECRET_BYTES = 32
# The second line of a key of `card-tokens` that is not the first one.
FROM = "from "
FILE_BYTES_MAX = 4_096
PRIVATE_MODE, PUBLIC_MODE, FOLDER_MODE = 0o600, 0o644, 0o700
OTHERS, GROUP, WRITE_OF_OTHERS = 0o007, 0o070, 0o022


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A secret that tokens are made with, and the event time from which on, in milliseconds."""

    secret: bytes
    from_ms: int = 0

    def __repr__(self) -> str:
        return f"TokenKey(from_ms={self.from_ms})"


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


def token_keys(keys_dir: Path) -> KeyFolder[TokenKey]:
    """Give the keys that card numbers are replaced with."""
    return KeyFolder(keys_dir / TOKENS, TOKEN_KEY, _token_key)


def _owners_keys(keys_dir: Path, owner: str) -> KeyFolder[Any]:
    """Give the folder whose newest key is the owner's current one."""
    if owner in PAIR_OWNERS:
        return public_keys(keys_dir)
    return token_keys(keys_dir) if owner == TOKENS_OWNER else label_keys(keys_dir)


def init_keys(keys_dir: Path, owners: Iterable[str] = (*LABEL_SOURCES, *PAIR_OWNERS)) -> list[str]:
    """Make a first key for each owner that has none; gives the ids of the keys that were made."""
    private = private_keys(keys_dir)
    made = []
    for owner in owners:
        # Where public keys were brought here, the trainer is elsewhere, and its keys are.
        there = (_owners_keys(keys_dir, owner), *((private,) if owner in PAIR_OWNERS else ()))
        if not any(folder.current(owner) for folder in there):
            made.append(rotate(keys_dir, owner))
    return made


def rotate(keys_dir: Path, owner: str, *, from_ms: int = 0) -> str:
    """Make a new key, which its owner signs with from now on; gives its id.

    A key of `card-tokens` is for events from `from_ms` on, milliseconds since 1970.
    """
    known = (*LABEL_SOURCES, *PAIR_OWNERS, TOKENS_OWNER)
    if owner not in known:
        raise KeyFileError(f"no keys of {owner!r}: there are those of {', '.join(known)}")
    current = _owners_keys(keys_dir, owner).current(owner)
    number = number_of(current[0]) + 1 if current else 1
    key_id = f"{owner}-{number}-{secrets.token_hex(2)}"
    if owner not in PAIR_OWNERS:
        lines = [secrets.token_hex(SECRET_BYTES)]
        if owner == TOKENS_OWNER:
            if current:
                _check_later(current[0], current[1], from_ms)
            # The first one is for all time before, unless it is asked not to be.
            lines += [FROM + _moment(from_ms)] if current or from_ms else []
        name = TOKENS if owner == TOKENS_OWNER else LABELS
        data = "".join(line + "\n" for line in lines).encode()
        _write(keys_dir / name / f"{key_id}.key", data, PRIVATE_MODE)
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
    current = _owners_keys(keys_dir, owner).current(owner)
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
    patterns = (
        *((LABELS, LABEL_KEY), (PRIVATE, PAIR_KEY), (PUBLIC, PAIR_KEY)),
        (TOKENS, TOKEN_KEY),
    )
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


def _token_key(data: bytes) -> TokenKey:
    secret, *rest = data.splitlines() or [b""]
    if not rest:
        return TokenKey(_secret(secret))
    text = rest[0].decode("ascii")
    if len(rest) > 1 or not text.startswith(FROM):
        raise ValueError(f"a second line must say {FROM!r} and a moment, and be the last")
    moment = datetime.fromisoformat(text.removeprefix(FROM))
    if moment.tzinfo is None:
        raise ValueError("its moment needs an offset, such as Z")
    return TokenKey(_secret(secret), round(moment.timestamp() * 1_000))


def _check_later(key_id: str, key: TokenKey, from_ms: int) -> None:
    if from_ms <= key.from_ms:
        since = f", which is in force from {_moment(key.from_ms)} on" if key.from_ms else ""
        raise KeyFileError(
            f"a new key of {TOKENS_OWNER} needs a moment (--from) after that of {key_id}{since}"
        )


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC).isoformat(timespec="milliseconds")


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

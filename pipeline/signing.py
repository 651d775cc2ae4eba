"""Signatures: of labels by a shared secret, of models and controls by private keys.

A signature stands in the Kafka header `fraud.signature` as `KEYID:hex`. What is signed is exact
bytes: a word that says what it is for, then each part with its length before it, so that no two
things that differ are ever signed as the same bytes. Topic and partition are not among them, since
a record's partition follows from its key.

>>> framed(b"label", b"analyst-1-9f3c", b"c1", None).hex(" ", -4)
'6c616265 6c000000 0e616e61 6c797374 2d312d39 66336300 00000263 31ffffff ff'
"""

import hmac
from collections.abc import Sequence
from typing import ClassVar, get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pipeline.errors import KeyFileError
from pipeline.events import Label, Problem
from pipeline.keys import (
    LABELS,
    MODELS_OWNER,
    OPERATOR_OWNER,
    PAIR_OWNERS,
    PRIVATE,
    PUBLIC,
    KeyFolder,
    label_keys,
    owner_of,
    private_keys,
    public_keys,
)
from pipeline.label_words import Source
from pipeline.settings import OFF, Settings

SIGNATURE_HEADER = "fraud.signature"
PLACE = f"headers.{SIGNATURE_HEADER}"
LABEL_DOMAIN = b"fraudstream.label.v1\0"
POINTER_DOMAIN = b"fraudstream.pointer.v1\0"
SNAPSHOT_DOMAIN = b"fraudstream.snapshot.v1\0"
CONTROL_DOMAIN = b"fraudstream.control.v1\0"

LENGTH_BYTES = 4
# A length that no part has: Kafka tells a null from nothing, and so must what is signed.
NULL = b"\xff" * LENGTH_BYTES
HEADER_BYTES_MAX = 256

Headers = Sequence[tuple[str, bytes | None]]
KEY_ID_MAX = max(map(len, (*get_args(Source), *PAIR_OWNERS))) + len("-999999-ffff")


def framed(domain: bytes, key_id: bytes, *parts: bytes | None) -> bytes:
    """Give the bytes that are signed: the domain, then each part behind its length."""
    pieces = [domain]
    for part in (key_id, *parts):
        pieces += [NULL] if part is None else [len(part).to_bytes(LENGTH_BYTES, "big"), part]
    return b"".join(pieces)


def label_mac(key_id: str, secret: bytes, key: bytes | None, value: bytes | None) -> bytes:
    """Give the HMAC-SHA256 of a label's bytes."""
    return hmac.digest(secret, framed(LABEL_DOMAIN, key_id.encode(), key, value), "sha256")


class LabelSigner:
    """Signs labels with the current keys of their sources.

    Parameters
    ----------
    keys
        `None`: nothing is signed, where nothing is checked (`label_signatures` is off).
    """

    def __init__(self, keys: KeyFolder[bytes] | None) -> None:
        self._keys = keys
        self._current: dict[Source, tuple[str, bytes]] = {}

    @classmethod
    def of(cls, settings: Settings) -> "LabelSigner":
        """Give the signer that the settings ask for."""
        is_off = settings.label_signatures == OFF
        return cls(None if is_off else label_keys(settings.keys_path))

    def check(self, *sources: Source) -> None:
        """Refuse to begin where the keys of these sources are not there."""
        for source in sources:
            if self._keys is not None:
                self._key(source)

    def headers(
        self, source: Source, key: bytes | None, value: bytes | None
    ) -> list[tuple[str, bytes]]:
        """Give the headers that a label is sent with."""
        if self._keys is None:
            return []
        key_id, secret = self._key(source)
        mac = label_mac(key_id, secret, key, value)
        return [(SIGNATURE_HEADER, f"{key_id}:{mac.hex()}".encode())]

    def _key(self, source: Source) -> tuple[str, bytes]:
        if source not in self._current:
            found = self._keys.current(source) if self._keys else None
            if found is None:
                folder = self._keys.path if self._keys else LABELS
                raise KeyFileError(
                    f"there is no key to sign labels of source {source!r} with in {folder}: copy "
                    "one from where workers run, make one (fraudstream keys init), or set "
                    "label_signatures to off there and here"
                )
            self._current[source] = found
        return self._current[source]


class LabelVerifier:
    """Checks the signatures of labels; what is wrong is a `Problem`, with what was expected."""

    def __init__(self, keys: KeyFolder[bytes] | None) -> None:
        self._keys = keys

    @classmethod
    def of(cls, settings: Settings) -> "LabelVerifier":
        """Give the verifier that the settings ask for; without a key it could accept nothing."""
        if settings.label_signatures == OFF:
            return cls(None)
        keys = label_keys(settings.keys_path)
        if not keys.ids:
            raise KeyFileError(
                f"there are no keys to check labels with in {keys.path}: copy them from where "
                "labels are signed, make some (fraudstream keys init), or set label_signatures "
                "to off"
            )
        return cls(keys)

    def refresh(self) -> None:
        """See keys that were added or retired."""
        if self._keys is not None:
            self._keys.refresh()

    def problem(self, headers: Headers, key: bytes | None, value: bytes | None) -> Problem | None:
        """Say what is wrong with a label's signature, before its bytes are read."""
        if self._keys is None:
            return None
        given = _signatures(headers)
        if len(given) != 1:
            return _bad("one signature", f"{len(given)} of them")
        key_id, mac = signature_parts(given[0])
        secret = self._keys.get(key_id)
        if secret is None:
            return _bad("KEYID:hex of a known key", "another key or form")
        if not hmac.compare_digest(label_mac(key_id, secret, key, value), mac):
            return _bad(f"the signature of these bytes by {key_id}", "another signature")
        return None

    def source_problem(self, headers: Headers, label: Label) -> Problem | None:
        """Say whether a label, whose signature is good, speaks for another source than its key."""
        if self._keys is None:
            return None
        [given] = _signatures(headers)
        owner = owner_of(given.partition(b":")[0].decode("ascii"))
        if label.source == owner:
            return None
        return Problem("bad_signature", "$.source", f"{owner}, whose key signed", label.source)


def signature_parts(header: bytes) -> tuple[str, bytes]:
    """Take `KEYID:hex` apart; gives an empty id where it is not of that form.

    >>> signature_parts(b"analyst-1-9f3c:00ff"), signature_parts(b"00ff")
    (('analyst-1-9f3c', b'\\x00\\xff'), ('', b''))
    """
    try:
        key_id, colon, digits = header[:HEADER_BYTES_MAX].decode("ascii").partition(":")
        return (key_id, bytes.fromhex(digits)) if colon else ("", b"")
    except ValueError:
        return "", b""


def _signatures(headers: Headers) -> list[bytes]:
    return [data or b"" for name, data in headers if name == SIGNATURE_HEADER]


def _bad(expected: str, got: str) -> Problem:
    return Problem("bad_signature", PLACE, expected, got)


class _PairSigner:
    """Signs with the current private key of an owner."""

    owner: ClassVar[str]
    what: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self._keys = private_keys(settings.keys_path)
        self._check()

    def _check(self) -> None:
        if self._keys.current(self.owner) is None:
            raise KeyFileError(
                f"there is no key to sign {self.what} with in {self._keys.path}: make one "
                f"(fraudstream keys init), and give its {PUBLIC} half, never the {PRIVATE} one, to "
                "the workers"
            )

    def sign(self, domain: bytes, *parts: bytes | None) -> tuple[str, bytes]:
        """Sign parts; gives the id of the key and the signature."""
        self._keys.refresh()
        self._check()
        found = self._keys.current(self.owner)
        assert found is not None, "checked above"
        key_id, key = found
        return key_id, key.sign(framed(domain, key_id.encode(), *parts))

    def _headers(
        self, domain: bytes, key: bytes | None, value: bytes | None
    ) -> list[tuple[str, bytes]]:
        key_id, signature = self.sign(domain, key, value)
        return [(SIGNATURE_HEADER, f"{key_id}:{signature.hex()}".encode())]


class ModelSigner(_PairSigner):
    """Signs models with the current private key."""

    owner, what = MODELS_OWNER, "models"

    def headers(self, key: bytes | None, value: bytes | None) -> list[tuple[str, bytes]]:
        """Give the headers that the pointer record is sent with."""
        return self._headers(POINTER_DOMAIN, key, value)


class ControlSigner(_PairSigner):
    """Signs controls with the operator's current private key."""

    owner, what = OPERATOR_OWNER, "controls"

    def headers(self, key: bytes | None, value: bytes | None) -> list[tuple[str, bytes]]:
        """Give the headers that a control record is sent with."""
        return self._headers(CONTROL_DOMAIN, key, value)


class _PairVerifier:
    """Checks what an owner's private keys signed, with the public ones."""

    owner: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self._keys: KeyFolder[Ed25519PublicKey] = public_keys(settings.keys_path)

    def signature_problem(
        self, domain: bytes, key_id: str, signature: bytes, *parts: bytes | None
    ) -> str | None:
        """Say what is wrong with a signature, if anything."""
        self._keys.refresh()
        key = self._keys.get(key_id)
        if key is None or owner_of(key_id) != self.owner:
            return f"it must be signed by a known key (got {key_id[:KEY_ID_MAX]!r})"
        try:
            key.verify(signature, framed(domain, key_id.encode(), *parts))
        except InvalidSignature:
            return f"its signature by {key_id} must fit (got another one): forged or damaged"
        return None

    def _record_problem(
        self, domain: bytes, headers: Headers, key: bytes | None, value: bytes | None
    ) -> str | None:
        given = _signatures(headers)
        if len(given) != 1:
            return f"it must have one header {SIGNATURE_HEADER} (got {len(given)})"
        return self.signature_problem(domain, *signature_parts(given[0]), key, value)


class ModelVerifier(_PairVerifier):
    """Checks the signatures of models with the public keys."""

    owner = MODELS_OWNER

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        if self._keys.current(MODELS_OWNER) is None:
            raise KeyFileError(
                f"there is no key to check models with in {self._keys.path}: copy the {PUBLIC} "
                "folder from where the trainer runs, or make keys there (fraudstream keys init)"
            )

    def pointer_problem(
        self, headers: Headers, key: bytes | None, value: bytes | None
    ) -> str | None:
        """Say what is wrong with the signature of the pointer record."""
        return self._record_problem(POINTER_DOMAIN, headers, key, value)


class ControlVerifier(_PairVerifier):
    """Checks the signatures of controls; where there is no operator's key, none is good."""

    owner = OPERATOR_OWNER

    def problem(self, headers: Headers, key: bytes | None, value: bytes | None) -> str | None:
        """Say what is wrong with the signature of a control record."""
        return self._record_problem(CONTROL_DOMAIN, headers, key, value)

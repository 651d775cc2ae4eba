"""Signed snapshots: a model's bytes with the trainer's signature behind them.

Behind the bytes of `models/snapshot.py`, which are the same for the same model, stand MAGIC, the
key's id in 32 bytes (padded with zeros) and 64 bytes of Ed25519. Nothing of a snapshot is read
before its signature is known to be good, least of all a pickle.
"""

from models.snapshot import SNAPSHOT_BYTES_MAX, Snapshot, decode, format_of
from pipeline.errors import SnapshotError
from pipeline.signing import SNAPSHOT_DOMAIN, ModelSigner, ModelVerifier

MAGIC = b"FRAUDSIG"
KEY_ID_BYTES, SIGNATURE_BYTES = 32, 64
SEAL_BYTES = len(MAGIC) + KEY_ID_BYTES + SIGNATURE_BYTES


def seal(body: bytes, signer: ModelSigner) -> bytes:
    """Put a signature behind a snapshot."""
    key_id, signature = signer.sign(SNAPSHOT_DOMAIN, body)
    sealed = body + MAGIC + key_id.encode().ljust(KEY_ID_BYTES, b"\0") + signature
    _check_size(sealed)
    return sealed


def opened(data: bytes, verifier: ModelVerifier) -> bytes:
    """Give the snapshot that was signed, if its signature is good."""
    _check_size(data)
    body, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
    if not seal.startswith(MAGIC) or not body:
        given = format_of(data)
        kind = "unsigned, or cut short" if given is None else f"of format {given}, unsigned"
        raise SnapshotError(f"snapshot: it must end in a signature (it is {kind})", "signature")
    key_id = seal[len(MAGIC) : -SIGNATURE_BYTES].rstrip(b"\0").decode("ascii", errors="replace")
    problem = verifier.signature_problem(SNAPSHOT_DOMAIN, key_id, seal[-SIGNATURE_BYTES:], body)
    if problem is not None:
        raise SnapshotError(f"snapshot: {problem}", "signature")
    return body


def read_sealed(data: bytes, verifier: ModelVerifier, *, river_pickle: bool = False) -> Snapshot:
    """Give the model of a signed snapshot, or say in one line why there is none."""
    return decode(opened(data, verifier), river_pickle=river_pickle)


def read_version(
    version: str, data: bytes, verifier: ModelVerifier, *, river_pickle: bool = False
) -> Snapshot:
    """Give the model that a record of the topic holds; it must be the version of its key."""
    snapshot = read_sealed(data, verifier, river_pickle=river_pickle)
    if snapshot.version != version:
        raise SnapshotError(
            f"snapshot: it must be of version {version} (got {snapshot.version})", "signature"
        )
    return snapshot


def _check_size(data: bytes) -> None:
    if len(data) > SNAPSHOT_BYTES_MAX:
        raise SnapshotError(
            f"snapshot: at most {SNAPSHOT_BYTES_MAX} bytes (got {len(data)})", "too_large"
        )

"""`fraudstream models`: list the published versions, save one, put one into force, hold one."""

import hashlib
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from consumers.controls_command import freeze, rollback, unfreeze
from consumers.model_topic import publish_model, read_models, role
from pipeline.errors import DataError, SnapshotError
from pipeline.sealing import read_sealed, read_version
from pipeline.signing import ModelSigner, ModelVerifier
from stack.command_settings import current_settings
from stack.connections import kafka_servers_of


@click.group()
def models() -> None:
    """List, save, publish and hold versions of the models."""


for _command in (freeze, rollback, unfreeze):
    models.add_command(_command)


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_models(as_json: bool) -> None:
    """List the versions that are published, oldest first, and which are in force."""
    settings = current_settings()
    published, verifier = read_models(kafka_servers_of(settings)), ModelVerifier(settings)
    pointer = published.champion(verifier)
    rows = [
        _described(version, data, verifier, river_pickle=settings.river_pickle)
        | {"role": role(pointer, version)}
        for version, data in published.snapshots.items()
    ]
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
        return
    table = Table(
        "version", "training offset", "labels learned", "bytes", "sha256", "role", box=None
    )
    for row in rows:
        names = ("version", "training_offset", "learned", "bytes", "sha256", "role")
        table.add_row(*(str(row[name]) for name in names))
    Console(highlight=False).print(table)


def _described(
    version: str, data: bytes, verifier: ModelVerifier, *, river_pickle: bool
) -> dict[str, object]:
    row: dict[str, object] = {
        "version": version,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        snapshot = read_version(version, data, verifier, river_pickle=river_pickle)
    except SnapshotError as error:
        return row | {"training_offset": None, "learned": None, "error": str(error)}
    return row | {"training_offset": snapshot.training_offset, "learned": snapshot.model.learned}


@models.command()
@click.argument("version")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def save(version: str, file: Path) -> None:
    """Save a published VERSION to FILE, whole as it was published.

    `fraudstream replay --snapshot FILE --no-learn` scores with it. VERSION may be `champion`.
    """
    settings = current_settings()
    published, verifier = read_models(kafka_servers_of(settings)), ModelVerifier(settings)
    pointer = published.champion(verifier)
    if version == "champion" and pointer is not None:
        version = pointer.version
    if version not in published.snapshots:
        known = ", ".join(list(published.snapshots)[-3:]) or "none"
        raise DataError(f"version {version!r} is not published; the newest are: {known}")
    data = published.snapshots[version]
    read_version(version, data, verifier, river_pickle=settings.river_pickle)
    file.write_bytes(data)
    click.echo(f"saved {version} to {file}: {len(data):,} bytes")


@models.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def publish(file: Path) -> None:
    """Publish the snapshot in FILE and make it the champion, without challengers.

    For a Kafka without a trainer: workers score with it and nothing is learned. It must be newer
    than the version in force, and than what this Kafka's own training log has come to. The file
    must be signed by a key that is known here, and the private key of models must be here as well:
    to say which version is in force is signed too.
    """
    settings = current_settings()
    signer, verifier = ModelSigner(settings), ModelVerifier(settings)
    data = file.read_bytes()
    snapshot = read_sealed(data, verifier, river_pickle=settings.river_pickle)
    publish_model(kafka_servers_of(settings), snapshot, data, signer, verifier)
    click.echo(f"published {snapshot.version}: {len(data):,} bytes")

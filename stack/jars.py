"""The jars of Kafka, each with its SHA-256, kept in a cache outside the checkout.

`jars.txt` names every jar exactly, so nothing is resolved when a stack starts and a jar that
differs in one byte is refused. `python -m stack.jars` writes the list anew for the versions below.

>>> coordinate = "org.apache.kafka:kafka_2.13:4.1.0"
>>> [jar.file_name for jar in locked_jars() if jar.coordinate == coordinate]
['kafka_2.13-4.1.0.jar']
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import click

from pipeline.errors import StackError

KAFKA_VERSION = "4.1.0"
# Each is resolved alone: log4j's parent would otherwise pull Kafka's own client down to 3.8.
ROOTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
)
LOCK = "jars.txt"
DOWNLOADS_AT_ONCE = 8
DOWNLOAD_ATTEMPTS = 3
PROGRESS_EVERY_JARS = 10


@dataclass(frozen=True, slots=True)
class Jar:
    """A jar by its Maven coordinate, group:artifact:version."""

    coordinate: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The jar's name in the cache."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"

    @property
    def path(self) -> Path:
        """The jar's place in the cache, as Maven lays it out."""
        group, artifact, version = self.coordinate.split(":")
        return jar_dir().joinpath(*group.split("."), artifact, version, self.file_name)


def cache_dir() -> Path:
    """Give the folder of what is downloaded once and shared by all checkouts."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fraudstream"


def jar_dir() -> Path:
    """Give the folder of the jars."""
    return cache_dir() / "jars"


def locked_jars() -> list[Jar]:
    """Read the committed list."""
    text = resources.files("stack").joinpath(LOCK).read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return [Jar(coordinate, sha256) for sha256, coordinate in lines]


def class_path(say: Callable[[str], None]) -> str:
    """Give Java's class path of all jars, downloading what is missing or damaged."""
    jars = locked_jars()
    missing = [jar for jar in jars if not _is_whole(jar)]
    if missing:
        with _only_one_download():
            # Another process may have brought them while this one waited.
            _download([jar for jar in missing if not _is_whole(jar)], say)
    return os.pathsep.join(str(jar.path) for jar in jars)


def _is_whole(jar: Jar) -> bool:
    try:
        with jar.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False


@contextmanager
def _only_one_download() -> Iterator[None]:
    try:
        jar_dir().mkdir(parents=True, exist_ok=True)
        file = (jar_dir() / ".lock").open("w")
    except OSError as error:
        raise StackError(f"jar cache {jar_dir()} cannot be written: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(jars: list[Jar], say: Callable[[str], None]) -> None:
    say(f"Kafka {KAFKA_VERSION}: downloading {len(jars)} jars to {jar_dir()} (once, 43 MB in all)")
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        for count, _ in enumerate(pool.map(_fetch, jars), start=1):
            if count % PROGRESS_EVERY_JARS == 0 or count == len(jars):
                say(f"Kafka {KAFKA_VERSION}: {count} of {len(jars)} jars")


def _fetch(jar: Jar) -> Jar:
    # It costs a quarter of a second, and only a first start needs it.
    from jgo.maven import MavenContext  # noqa: PLC0415

    group, artifact, version = jar.coordinate.split(":")
    component = MavenContext(repo_cache=jar_dir()).project(group, artifact).at_version(version)
    cause: Exception | None = None
    for _ in range(DOWNLOAD_ATTEMPTS):
        jar.path.unlink(missing_ok=True)
        try:
            component.artifact().resolve()
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
            cause = error
            continue
        if _is_whole(jar):
            return jar
    reason = str(cause) if cause else f"its SHA-256 is not the {jar.sha256} of {LOCK}"
    raise StackError(f"{jar.file_name} could not be downloaded to {jar_dir()}: {reason}") from cause


def _resolve() -> dict[str, str]:
    import jgo  # noqa: PLC0415

    found: dict[str, str] = {}
    for root in ROOTS:
        for artifact in jgo.resolve(root):
            coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            with artifact.resolve().open("rb") as file:
                found[coordinate] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _write_lock() -> None:
    lines = [f"{sha256}  {coordinate}" for coordinate, sha256 in sorted(_resolve().items())]
    heading = "# Written by `python -m stack.jars`: SHA-256 and Maven coordinate of each jar.\n"
    Path(__file__).with_name(LOCK).write_text(heading + "\n".join(lines) + "\n", encoding="utf-8")
    click.echo(f"{LOCK}: {len(lines)} jars")


if __name__ == "__main__":
    _write_lock()

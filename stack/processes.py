"""Starting, recognising and stopping server processes.

A process is known by its id and the moment it started, so that an id which the system has given to
another process is never taken for a server, and never killed.

>>> me = identify(os.getpid())
>>> me is not None and is_alive(me)
True
>>> is_alive(Identity(os.getpid(), "another moment"))
False
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from stack import guard

TERMINATION_SECONDS_MAX = 20.0
POLL_SECONDS = 0.02
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Field 22 of /proc/PID/stat, counted from behind the command name, which may hold spaces.
START_FIELD = 19
LOG_LINE_CHARACTERS_MAX = 300


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told from every later one that gets its id."""

    pid: int
    started: str


def identify(pid: int) -> Identity | None:
    """Give the identity of a running process; `None` when there is none or it is a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, _started(process))
    except (psutil.Error, OSError):
        return None


def _started(process: psutil.Process) -> str:
    # The time of day would move when the clock is set; ticks since this boot do not.
    if not BOOT_ID.exists():
        return repr(process.create_time())
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return f"{BOOT_ID.read_text().strip()}:{fields[START_FIELD]}"


def is_alive(identity: Identity) -> bool:
    """Say whether this very process still runs."""
    return identify(identity.pid) == identity


def resident_bytes(identity: Identity) -> int:
    """Give the memory that a process occupies; 0 when it is gone."""
    try:
        return int(psutil.Process(identity.pid).memory_info().rss)
    except psutil.Error:
        return 0


@dataclass(frozen=True, slots=True)
class Started:
    """A server that was started here; `lifeline` is the pipe whose end stops an attached one."""

    process: subprocess.Popen[bytes]
    lifeline: int | None
    log: Path

    def failure(self) -> str | None:
        """Say why the server has ended; `None` while it runs."""
        if self.process.poll() is None:
            return None
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        return (
            f"has stopped (exit code {self.process.returncode}): "
            f"{last[:LOG_LINE_CHARACTERS_MAX]} (see {self.log})"
        )

    def release(self) -> None:
        """Take note that the server has ended, so that no zombie and no open pipe remains."""
        self.process.wait(TERMINATION_SECONDS_MAX)
        if self.lifeline is not None:
            os.close(self.lifeline)


def start(command: Sequence[str], *, folder: Path, log: Path, attached: bool) -> Started:
    """Start a server in a session of its own, so that Ctrl-C reaches only who started it."""
    reading, lifeline = os.pipe() if attached else (None, None)
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(reading), *command]
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                guarded if attached else command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[] if reading is None else [reading],
            )
    finally:
        if reading is not None:
            os.close(reading)
    return Started(process, lifeline, log)


def stop(identities: Iterable[Identity]) -> None:
    """End processes: all are asked at once; who has not gone after the limit is killed."""
    alive = [identity for identity in identities if _signal(identity, kill=False)]
    deadline = time.monotonic() + TERMINATION_SECONDS_MAX
    while alive and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        alive = [identity for identity in alive if is_alive(identity)]
    for identity in alive:
        _signal(identity, kill=True)


def _signal(identity: Identity, *, kill: bool) -> bool:
    if not is_alive(identity):
        return False
    try:
        process = psutil.Process(identity.pid)
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return False
    return True

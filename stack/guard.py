"""Runs a server that must not outlive its parent: `guard.py FD COMMAND...`.

The process becomes the server by `exec`, so its id is the server's. Before that it forks a guard
that waits on FD, the reading end of a pipe that only the parent can write: the pipe ends when the
parent does, even by SIGKILL, and the guard then stops the server. PR_SET_PDEATHSIG would fire when
the parent's starting *thread* ends, and exists on Linux only.

It imports nothing of this project and little of Python's, since every start waits for it.
"""

import contextlib
import os
import select
import signal
import sys
import time

TERMINATION_SECONDS_MAX = 10.0
POLL_SECONDS = 0.05
# How soon the guard notices that the server has ended by itself.
WATCH_SECONDS = 1.0


def main(pipe: int, command: list[str]) -> None:
    """Fork the guard, then become the server."""
    server = os.getpid()
    if os.fork() == 0:
        _watch(pipe, server)
        os._exit(0)
    os.set_inheritable(pipe, False)
    os.execv(command[0], command)


def _watch(pipe: int, server: int) -> None:
    # A server that is gone is no longer this process's parent, so its id cannot be mistaken.
    while os.getppid() == server:
        if select.select([pipe], [], [], WATCH_SECONDS)[0]:
            _stop(server)


def _stop(server: int) -> None:
    deadline = time.monotonic() + TERMINATION_SECONDS_MAX
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGTERM)
        while os.getppid() == server:
            if time.monotonic() > deadline:
                os.kill(server, signal.SIGKILL)
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

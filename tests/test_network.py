"""Ports of the embedded servers stay the same from one start to the next."""

import socket
import threading

from stack.network import LOOPBACK, free_port


def test_a_port_that_is_being_let_go_of_is_waited_for() -> None:
    dying = socket.create_server((LOOPBACK, 0))
    port = dying.getsockname()[1]
    threading.Timer(0.3, dying.close).start()

    assert free_port(port) == port


def test_without_a_preference_there_are_many() -> None:
    assert free_port() != free_port()

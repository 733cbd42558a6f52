"""Ports that are reserved for the workers."""

from __future__ import annotations

import errno
import socket

import pytest

from privyseal_service.system.sockets import ListenError, reserve


def test_a_free_port_is_reserved_for_processes_that_share_it() -> None:
    held = reserve("127.0.0.1:0", share=False)
    port = int(held.address.removeprefix("127.0.0.1:"))
    with socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        with pytest.raises(ListenError):
            reserve(held.address, share=False)
        reserve(held.address, share=True).release()
    held.release()
    reserve(held.address, share=False).release()


def test_no_connection_reaches_a_port_that_is_only_reserved() -> None:
    held = reserve("127.0.0.1:0", share=False)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(held.address.rpartition(":")[2])))
    held.release()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "localhost:0"])
def test_every_address_of_the_host_is_reserved(address: str) -> None:
    held = reserve(address, share=False)
    number = int(held.address.rpartition(":")[2])
    assert held.address == f"{address.rpartition(':')[0]}:{number}"
    assert {each.getsockname()[1] for each in held.sockets} == {number}
    with socket.socket() as another, pytest.raises(OSError) as caught:
        another.bind(("127.0.0.1", number))
    assert caught.value.errno == errno.EADDRINUSE
    held.release()


def test_a_unix_socket_needs_no_port() -> None:
    assert reserve("unix:/s", share=False).address == "unix:/s"


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:1"])
def test_an_address_that_is_not_available(address: str) -> None:
    with pytest.raises(ListenError):
        reserve(address, share=False)

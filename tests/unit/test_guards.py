"""What keeps the packets of tests on loopback: addresses and names of others are refused."""

from __future__ import annotations

import socket

import pytest
from pytest_socket import SocketConnectBlockedError

NOT_OURS = "127.0.0.2"  # on loopback all the same, so that nothing leaves if a guard is down


@pytest.mark.filterwarnings("ignore:A test tried")  # the refusal says it, too
def test_other_addresses_are_refused() -> None:
    """No test reaches any address but those that pyproject.toml names."""
    with socket.socket() as connection, pytest.raises(SocketConnectBlockedError):
        connection.connect((NOT_OURS, 9))


@pytest.mark.parametrize("host", [NOT_OURS, NOT_OURS.encode()])
def test_other_names_are_refused(host: str | bytes) -> None:
    """No test has a name looked up but loopback's."""
    with pytest.raises(AssertionError, match=NOT_OURS):
        socket.getaddrinfo(host, 80)

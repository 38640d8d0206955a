"""Hosts for tests: network namespaces joined by bridges, with no way out.

Everything is made inside of new namespaces, nothing in the machine's own, so no packet can reach
another machine. The hub has a bridge for each net; a host has an interface on each. A namespace
lasts as long as its holder, a process that ends with this one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

NETS: Final = ("data", "web")  # 10.99.1.0/24 and 10.99.2.0/24
HUB: Final = 1  # its number, the last part of its addresses
START_SECONDS: Final = 10.0
_TOOLS: Final = ("ip", "nsenter", "unshare")


def address(net: str, number: int = HUB) -> str:
    """Return the address of a host on a net."""
    return f"10.99.{NETS.index(net) + 1}.{number}"


def why_not() -> str | None:
    """Return why this machine can't make such networks; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        return f"needs {', '.join(missing)}"
    trial = "ip link add trial type bridge && ip link add one type veth peer name two"
    command = ["unshare", "--net", "sh", "-c", trial]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        f"no bridge in a namespace of its own: {done.stderr.strip()}" if done.returncode else None
    )


class Host:
    """A network namespace; `enter` before a command runs it there."""

    def __init__(self, number: int) -> None:
        self.number = number
        holder = ["unshare", "--net", "cat"]
        self._holder = subprocess.Popen(holder, stdin=subprocess.PIPE)
        self.pid = self._holder.pid
        self.enter = ["nsenter", f"--target={self.pid}", "--net"]
        ours = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + START_SECONDS
        while Path(f"/proc/{self.pid}/ns/net").readlink() == ours:
            assert time.monotonic() < deadline, "no namespace"
            time.sleep(0.01)

    def ip(self, arguments: str) -> None:
        """Run `ip` there."""
        subprocess.run([*self.enter, "ip", *arguments.split()], check=True)

    def close(self) -> None:
        """Let the namespace go, once the last process in it has ended."""
        self._holder.communicate()


class Network:
    """A hub and hosts around it."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._stack = ExitStack()
        self.hub = self._host(HUB)
        for net in NETS:
            self.hub.ip(f"link add {net} address {_mac(net, HUB)} type bridge")
            self._bring_up(self.hub, net)
        self.hosts = {number: self._join(number) for number in numbers}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut(self, host: Host, net: str) -> None:
        """Have every packet between a host and a net vanish, without a sign to either side."""
        self.hub.ip(f"link set {_port(net, host.number)} nomaster")

    def heal(self, host: Host, net: str) -> None:
        """Put a host that was cut off back on its net."""
        self.hub.ip(f"link set {_port(net, host.number)} master {net}")

    def _host(self, number: int) -> Host:
        host = Host(number)
        self._stack.callback(host.close)
        host.ip("link set lo up")
        return host

    def _join(self, number: int) -> Host:
        host = self._host(number)
        for net in NETS:
            port, mac = _port(net, number), _mac(net, number)
            self.hub.ip(f"link add {port} type veth peer name {net} netns {host.pid} address {mac}")
            self.hub.ip(f"link set {port} master {net} up")
            self._bring_up(host, net)
            # Known for ever: a host that nobody asks about vanishes without an error.
            host.ip(f"neigh replace {address(net)} lladdr {_mac(net, HUB)} dev {net}")
            self.hub.ip(f"neigh replace {address(net, number)} lladdr {mac} dev {net}")
        return host

    def _bring_up(self, host: Host, net: str) -> None:
        host.ip(f"address add {address(net, host.number)}/24 dev {net}")
        host.ip(f"link set {net} up")


def _port(net: str, number: int) -> str:
    return f"{net}{number}"


def _mac(net: str, number: int) -> str:
    return f"02:00:00:00:{NETS.index(net) + 1:02x}:{number:02x}"

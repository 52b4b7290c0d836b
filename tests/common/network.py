"""Hosts on this machine: network namespaces that a test makes, with a cable each that it can pull."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.77.77"


@dataclass(frozen=True)
class Network:
    """Namespaces that are connected by a switch.

    Attributes:
        hosts: name -> address.
    """

    prefix: str
    hosts: Mapping[str, str]

    def command(self, host: str, *command: str) -> list[str]:
        """Return the command that runs a command on a host; the process that it starts is the command itself."""
        return ["ip", "netns", "exec", self.prefix + host, *command]

    def start(self, host: str, *command: str, cwd: Path, log: Path, **env: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(
                self.command(host, *command), cwd=cwd, env={**os.environ, **env}, stdout=file, stderr=file
            )

    def plug(self, host: str, *, connected: bool) -> None:
        """Pull or plug the cable of a host."""
        _ip("-n", f"{self.prefix}hub", "link", "set", f"to-{host}", "up" if connected else "down")


def can_make_namespaces() -> bool:
    """Return whether this process may make network namespaces."""
    if shutil.which("ip") is None:
        return False
    name = f"probe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "delete", name)
    return made


@contextlib.contextmanager
def network(*names: str) -> Iterator[Network]:
    """Make a namespace for each name, and one with the switch between them. All end with the block."""
    prefix = f"ar{os.getpid()}-"
    hosts = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=1)}
    hub = f"{prefix}hub"
    try:
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "switch", "type", "bridge")
        _ip("-n", hub, "link", "set", "switch", "up")
        for name, address in hosts.items():
            own = prefix + name
            _ip("netns", "add", own)
            _ip("-n", own, "link", "add", "wire", "type", "veth", "peer", "name", f"to-{name}", "netns", hub)
            _ip("-n", hub, "link", "set", f"to-{name}", "master", "switch", "up")
            _ip("-n", own, "addr", "add", f"{address}/24", "dev", "wire")
            _ip("-n", own, "link", "set", "wire", "up")
            _ip("-n", own, "link", "set", "lo", "up")
        yield Network(prefix, hosts)
    finally:
        for name in (*hosts, "hub"):
            subprocess.run(["ip", "netns", "delete", prefix + name], capture_output=True, check=False)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)

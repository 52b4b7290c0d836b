"""Names and addresses of machines."""

from __future__ import annotations

import ipaddress

PORT = 8786  # of a scheduler, which is Dask's own default


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"

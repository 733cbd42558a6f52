"""Addresses of listeners: HOST:PORT, [IPV6]:PORT or unix:PATH."""

from __future__ import annotations

import ipaddress
import re


def split_address(address: str) -> tuple[str, int]:
    """Return the host (without brackets) and the port of HOST:PORT. Raises ValueError."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", address)
    if not match or int(match[2]) > 65535:
        raise ValueError("must be HOST:PORT, [IPV6]:PORT or unix:PATH")
    return match[1].strip("[]"), int(match[2])


def is_local(address: str) -> bool:
    """Return whether only this machine can reach the address: a literal in 127.0.0.0/8, ::1 or a Unix socket. A host
    name is not local, whatever it resolves to."""
    if address.startswith("unix:"):
        return True
    try:
        ip = ipaddress.ip_address(split_address(address)[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip in ipaddress.IPv4Network("127.0.0.0/8")
    return ip == ipaddress.IPv6Address("::1")

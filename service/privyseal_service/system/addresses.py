"""Addresses of listeners."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def split_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of HOST:PORT. Raises ValueError."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", address)
    if not match or int(match[2]) > 65535:
        raise ValueError("must be HOST:PORT, [IPV6]:PORT or unix:PATH")
    return match[1].strip("[]"), int(match[2])


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address: a literal in 127.0.0.0/8, ::1 or a Unix socket. A host name is
    not: what it means is not ours to say."""
    if address.startswith("unix:"):
        return True
    try:
        ip = ipaddress.ip_address(split_address(address)[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip in ipaddress.IPv4Network("127.0.0.0/8")
    return ip == ipaddress.IPv6Address("::1")

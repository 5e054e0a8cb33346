"""Where this machine can be reached: the addresses that a node tells its peers. Hints; TLS decides."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from idao.home import Home
from idao.node.listener import PORT
from idao.noderecord import ADDRESSES_MAX, join_address

ANY = ("0.0.0.0", "::")
SKIPPED = ("lo", "docker", "veth", "br-", "virbr", "utun", "tun", "tap", "wg", "vboxnet", "vmnet")
"""Interfaces that lead to nobody else on the LAN: loop-back, containers, tunnels."""


def port_of(home: Home) -> int:
    return int(home.get("node", "port", PORT))


def discovers(home: Home) -> bool:
    """Whether the node announces itself on the LAN, and listens for others."""
    return str(home.get("node", "discovery", "on")) != "off"


def hosts_of(home: Home) -> tuple[str, ...]:
    """Addresses to listen on; all of the machine unless `node.hosts` names some."""
    text = str(home.get("node", "hosts", ""))
    return tuple(part.strip() for part in text.split(",") if part.strip()) or ANY


def interfaces() -> list[tuple[str, list[str]]]:
    """(name, addresses) of every interface, without link-local ones: they mean nothing elsewhere."""
    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        texts = [ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in adapter.ips]
        found.append((str(adapter.nice_name), [t for t in texts if not ip_address(t).is_link_local]))
    return found


def of_lan() -> Iterable[str]:
    """Addresses by which others on the LAN may reach this machine."""
    for name, texts in interfaces():
        if not name.startswith(SKIPPED):
            yield from (t for t in texts if not ip_address(t).is_loopback)


def own(home: Home, port: int) -> tuple[str, ...]:
    """As a node record holds them: IPv6 first (it needs no translation), at most eight."""
    hosts = hosts_of(home)
    texts = list(of_lan()) if set(hosts) & set(ANY) else list(hosts)
    ordered = sorted(dict.fromkeys(texts), key=lambda t: ip_address(t).version, reverse=True)
    return tuple(join_address(str(ip_address(t)), port) for t in ordered)[:ADDRESSES_MAX]

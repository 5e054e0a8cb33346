"""The network interfaces of this machine: which of them are the LAN, and how others reach us there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address

from idao.frozen import frozen
from idao.noderecord import ADDRESSES_MAX, join_address

NOT_A_LAN = re.compile(r"lo\d*$|docker|veth|br-|virbr|vmnet|vboxnet|utun|tun|tap|wg|tailscale|zt|awdl|llw")
"""Loop-back, containers, virtual machines, tunnels: announcing there reaches nobody of the LAN."""

LOOPBACK = re.compile(r"lo\d*$")


@frozen
class Interface:
    name: str
    index: int
    addresses: tuple[str, ...]
    """Without scope; link-local IPv6 among them."""

    @property
    def ipv4(self) -> tuple[str, ...]:
        return tuple(a for a in self.addresses if ":" not in a)

    @property
    def ipv6(self) -> tuple[str, ...]:
        return tuple(a for a in self.addresses if ":" in a)


def interfaces(chosen: Sequence[str] = ()) -> list[Interface]:
    """Those of the LAN that have an address; with `chosen` names, exactly these.

    A machine that has no other is reached by what usually leads to no LAN: a container by its veth.
    """
    found = _named(chosen, NOT_A_LAN)
    return found or ([] if chosen else _named((), LOOPBACK))


def _named(chosen: Sequence[str], skipped: re.Pattern[str]) -> list[Interface]:
    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        name = adapter.nice_name
        if (name not in chosen) if chosen else skipped.match(name):
            continue
        addresses = [ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in adapter.ips]
        usable = tuple(a for a in addresses if not ip_address(a).is_loopback or chosen)
        if usable and adapter.index is not None:
            found.append(Interface(name, adapter.index, usable))
    return sorted(found, key=lambda one: one.index)


def own_addresses(port: int, chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """For the node record: global and local IPv6, then IPv4. Link-local ones mean nothing elsewhere."""
    every = [ip_address(a) for one in interfaces(chosen) for a in one.addresses]
    useful = [a for a in every if not a.is_link_local and not a.is_loopback]
    ordered = [a for a in useful if a.version == 6] + [a for a in useful if a.version == 4]
    return tuple(dict.fromkeys(join_address(str(a), port) for a in ordered))[:ADDRESSES_MAX]

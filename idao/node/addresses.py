"""Where this machine can be reached: the addresses that a node tells its peers. Hints; TLS decides."""

from __future__ import annotations

from ipaddress import ip_address

from idao.home import Home
from idao.node.interfaces import own_addresses
from idao.node.listener import PORT
from idao.noderecord import ADDRESSES_MAX, join_address

ANY = ("0.0.0.0", "::")


def port_of(home: Home) -> int:
    return int(home.get("node", "port", PORT))


def discovers(home: Home) -> bool:
    """Whether the node announces itself on the LAN, and listens for others."""
    return str(home.get("node", "discovery", "on")) != "off"


def hosts_of(home: Home) -> tuple[str, ...]:
    """Addresses to listen on; all of the machine unless `node.hosts` names some."""
    text = str(home.get("node", "hosts", ""))
    return tuple(part.strip() for part in text.split(",") if part.strip()) or ANY


def chosen_of(home: Home) -> tuple[str, ...]:
    """Names of the interfaces that the operator chose; none: those of the LAN."""
    text = str(home.get("node", "interfaces", ""))
    return tuple(part.strip() for part in text.split(",") if part.strip())


def own(home: Home, port: int) -> tuple[str, ...]:
    """As a node record holds them: of the LAN's interfaces, or what `node.hosts` names."""
    hosts = hosts_of(home)
    if set(hosts) & set(ANY):
        return own_addresses(port, chosen_of(home))
    return tuple(join_address(str(ip_address(t)), port) for t in hosts)[:ADDRESSES_MAX]

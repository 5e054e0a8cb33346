"""Who may come in: what an address, and the network that it is of, have used of their shares.

One machine may have all 2^64 addresses of an IPv6 network, so these count together as well; but not an
address from which a member said hello: nobody keeps it out by making up others. IPv4 addresses count each by
itself.
"""

from __future__ import annotations

import socket

STRANGERS_PER_ADDRESS = 3
"""At once, before their hello: two peers of one machine dialing at a time, and one more."""
CONNECTIONS_PER_S, CONNECTIONS_BURST = 10, 30
"""From one address: a handshake costs 7 ms, so this is a fourteenth of a core at worst."""
NET_PER_S, NET_BURST = 40, 120
"""From one network: four times that, which is a quarter of a core; at once, all members of a large quorum."""
ADDRESSES_MAX = 4096
"""Addresses whose rate is remembered."""
ADDRESSES_PER_NET = 256
"""Of one network: more than a LAN has nodes, a sixteenth of all."""
SWEEP_S = 1.0
"""Between two looks for addresses that came to rest: all of them are looked at."""


class Share:
    """Connections that may still come: some a second, some at once."""

    __slots__ = ("burst", "filled", "per_s", "tokens")

    def __init__(self, per_s: int, burst: int, now: float) -> None:
        self.per_s, self.burst = per_s, burst
        self.tokens, self.filled = float(burst), now

    def take(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.per_s)
        self.filled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def rests(self, now: float) -> bool:
        """Whether it is whole again: then nothing is lost by forgetting it."""
        return now - self.filled > self.burst / self.per_s


class Net:
    """A /64 of IPv6: how many of its addresses are remembered, and what it has used."""

    __slots__ = ("addresses", "share")

    def __init__(self, now: float) -> None:
        self.addresses, self.share = 0, Share(NET_PER_S, NET_BURST, now)


class Door:
    """What one address has used."""

    __slots__ = ("address", "inside", "net", "share", "trusted")

    def __init__(self, address: str, net: Net | None, now: float) -> None:
        self.address, self.net, self.share = address, net, Share(CONNECTIONS_PER_S, CONNECTIONS_BURST, now)
        self.inside, self.trusted = 0, False

    def rests(self, now: float) -> bool:
        return not self.inside and not self.trusted and self.share.rests(now)


class Doors:
    """All of them. Times are seconds of a clock that only goes on."""

    def __init__(self) -> None:
        self.open: dict[str, Door] = {}
        self._nets: dict[bytes, Net] = {}
        self._members: dict[bytes, Door] = {}
        self._swept = float("-inf")

    def admit(self, address: str, now: float) -> Door | None:
        """The door of an address that may make one more connection; None for another."""
        door = self.open.get(address) or self._make(address, now)
        if door is None or door.inside >= STRANGERS_PER_ADDRESS or not door.share.take(now):
            return None
        if door.net is not None and not door.trusted and not door.net.share.take(now):
            return None
        return door

    def trust(self, pin: bytes, door: Door) -> None:
        """A member, by its certificate, said hello through `door`: its newest one stays."""
        before = self._members.get(pin)
        self._members[pin] = door
        if before is not None:
            before.trusted = before in self._members.values()
        door.trusted = True

    def _make(self, address: str, now: float) -> Door | None:
        if not self._room(address):
            self._sweep(now)
            if not self._room(address):
                return None
        net = None
        if (prefix := net_of(address)) is not None:
            net = self._nets.setdefault(prefix, Net(now))
            net.addresses += 1
        door = self.open[address] = Door(address, net, now)
        return door

    def _room(self, address: str) -> bool:
        net = self._nets.get(net_of(address) or b"")
        return len(self.open) < ADDRESSES_MAX and (net is None or net.addresses < ADDRESSES_PER_NET)

    def _sweep(self, now: float) -> None:
        """Forgets who came to rest."""
        if now - self._swept < SWEEP_S:
            return
        self._swept = now
        for door in [d for d in self.open.values() if d.rests(now)]:
            del self.open[door.address]
            if door.net is not None:
                door.net.addresses -= 1
        idle = [p for p, net in self._nets.items() if not net.addresses and net.share.rests(now)]
        for prefix in idle:
            del self._nets[prefix]


def net_of(address: str) -> bytes | None:
    """The /64 of an IPv6 address, with the interface of a link-local one; None for IPv4."""
    if ":" not in address:
        return None
    text, _, scope = address.partition("%")
    return socket.inet_pton(socket.AF_INET6, text)[:8] + scope.encode()

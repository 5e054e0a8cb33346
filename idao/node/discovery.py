"""Finding members on the LAN by mDNS (RFC 6762, 6763). What is found is a hint: it is dialed, TLS decides.

The announcement is `RANDOM._idao._tcp.local.`, a new random name each start, with addresses, a port, and

    v=1            version of this text
    c=TAG[,TAG…]   for each quorum 8 hex digits that change every day; only members can tell which quorum
    f=p            an invite is open

It names no person, machine, height, key or version. Each interface announces its own addresses and no
other's. Where there is no multicast, there is no discovery and nothing else changes: `trouble` says so, and
it is tried again when interfaces are looked at.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from idao import noderecord
from idao.crypto import hashing
from idao.errors import Malformed
from idao.frozen import frozen
from idao.home import entropy, now_ms
from idao.node.interfaces import Interface, interfaces

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

TYPE = "_idao._tcp.local."
TAG_CHARS = 8
"""32 bits: two of ten quorums on a LAN collide once in 10^8 days, and then one dial is in vain."""
TAGS_MAX = 16
"""Quorums of one home; the text stays below 200 bytes."""
SEEN_MAX = 128
"""Announcements remembered for each interface: a flood of false ones must not fill the memory."""
ADDRESSES_MAX = 8
"""Taken from one announcement."""
WATCH_S = 30.0
"""How often interfaces are looked at: a new DHCP lease is announced within this time."""
DAY_MS = 24 * 3600 * 1000


@frozen
class Found:
    """One announcement: tags of its quorums, where it listens, whether an invite is open there."""

    tags: frozenset[str]
    addresses: tuple[str, ...]
    pairing: bool


@frozen
class InterfaceState:
    """For `status` and `doctor`."""

    name: str
    addresses: tuple[str, ...]
    working: bool
    echo: bool
    """Its own announcement came back: multicast leaves this machine and returns."""
    seen: int
    trouble: str


def tag(quorum: bytes, time_ms: int) -> str:
    """What stands for a quorum on this day (UTC)."""
    key = hashing.derive_secret("idao 1 discovery", quorum)
    return hashing.keyed(key, (time_ms // DAY_MS).to_bytes(8, "big"))[: TAG_CHARS // 2].hex()


def tags(quorum: bytes, time_ms: int) -> frozenset[str]:
    """The tags that its members may be announcing now, whatever the time zone of their mistakes."""
    return frozenset(tag(quorum, time_ms + step) for step in (-DAY_MS, 0, DAY_MS))


class Discovery:
    """Announces this node on the chosen interfaces and tells what others announce.

    `on_found(found)`: something appeared or changed. `on_lost(found)`: it is gone (a goodbye or an old age).
    """

    def __init__(
        self,
        port: int,
        *,
        chosen: Sequence[str] = (),
        on_found: Callable[[Found], None],
        on_lost: Callable[[Found], None] = lambda found: None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self.port, self.chosen = port, tuple(chosen)
        self.on_found, self.on_lost, self.clock_ms = on_found, on_lost, clock_ms
        self.on_interfaces: Callable[[], None] = lambda: None
        """Addresses of this machine changed: time for a new node record."""
        self.name = base64.b32encode(entropy(5)).decode().lower()
        self.host = base64.b32encode(entropy(5)).decode().lower()
        self.quorums: tuple[bytes, ...] = ()
        self.pairing = False
        self.ears: dict[Interface, Ear] = {}
        self.trouble: dict[str, str] = {}
        self._watch: asyncio.Task[None] | None = None
        self._told = b""

    async def start(self) -> None:
        """Never fails: without multicast it stays quiet and tries again later."""
        await self._look()
        self._watch = asyncio.get_running_loop().create_task(self._watching())

    async def stop(self) -> None:
        """Says goodbye."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        ears, self.ears = list(self.ears.values()), {}
        await asyncio.gather(*(ear.close() for ear in ears))

    async def announce(self, quorums: Iterable[bytes], *, pairing: bool = False) -> None:
        """What to announce from now on. No quorum and no invite: nothing."""
        self.quorums, self.pairing = tuple(quorums)[:TAGS_MAX], pairing
        await self._tell()

    def found(self) -> list[Found]:
        """All that is announced now, by others."""
        return [found for ear in self.ears.values() for found in ear.seen.values()]

    def members(self, quorum: bytes) -> tuple[str, ...]:
        """Addresses announced for `quorum`."""
        wanted = tags(quorum, self.clock_ms())
        places = [a for found in self.found() if found.tags & wanted for a in found.addresses]
        return tuple(dict.fromkeys(places))

    def inviters(self) -> tuple[str, ...]:
        """Where an invite is open: what a joiner tries beside the addresses of its invite."""
        return tuple(dict.fromkeys(a for found in self.found() if found.pairing for a in found.addresses))

    def status(self) -> list[InterfaceState]:
        working = [
            InterfaceState(one.name, one.addresses, True, ear.echo, len(ear.seen), "")
            for one, ear in self.ears.items()
        ]
        return working + [
            InterfaceState(name, (), False, False, 0, why) for name, why in self.trouble.items()
        ]

    # --- interfaces come and go

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self._look()
            except Exception as e:  # as in `_look`: an interface that is going fails in many ways
                self.trouble["all"] = f"{type(e).__name__}: {e}"

    async def _look(self) -> None:
        """Opens ears on interfaces that are new, closes those of interfaces that are gone or changed."""
        before = set(self.ears)
        self.trouble = {}
        try:
            now = interfaces(self.chosen)
        except OSError as e:
            self.trouble["all"] = e.strerror or str(e)
            return
        for gone in before - set(now):
            await self.ears.pop(gone).close()
        for one in now:
            if one in self.ears:
                continue
            ear = Ear(self, one)
            try:
                await ear.open()
            except Exception as e:  # zeroconf raises many kinds where multicast is not to be had
                self.trouble[one.name] = f"no multicast: {e}"
                with contextlib.suppress(Exception):
                    await ear.close()
                continue
            self.ears[one] = ear
        if not now:
            self.trouble["all"] = "no interface of a LAN" if not self.chosen else "none of the chosen is up"
        if before != set(self.ears):
            self._told = b""
        await self._tell()
        if before and before != set(self.ears):
            self.on_interfaces()

    async def _tell(self) -> None:
        """Announces, or corrects what is announced, where it differs: also when the day has changed."""
        marks = sorted(tag(quorum, self.clock_ms()) for quorum in self.quorums)
        text = ",".join(marks).encode() + (b"+" if self.pairing else b"-")
        if text == self._told:
            return
        self._told = text
        properties: dict[str, str] = {"v": "1", "c": ",".join(marks)}
        if self.pairing:
            properties["f"] = "p"
        for ear in self.ears.values():
            await ear.tell(properties if marks or self.pairing else None)


class Ear:
    """Discovery on one interface."""

    def __init__(self, discovery: Discovery, interface: Interface) -> None:
        self.discovery, self.interface = discovery, interface
        self.seen: dict[str, Found] = {}
        self.echo = False
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._info: AsyncServiceInfo | None = None
        self._asking: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        import logging

        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        # It warns about every packet that an interface would not send; `trouble` is where that is told.
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
        one = self.interface
        both = IPVersion.All if one.ipv4 and one.ipv6 else None
        version = both or (IPVersion.V4Only if one.ipv4 else IPVersion.V6Only)
        choice: list[Any] = [*one.ipv4, *([one.index] if one.ipv6 else [])]
        self._zeroconf = AsyncZeroconf(interfaces=choice, ip_version=version)
        await self._zeroconf.zeroconf.async_wait_for_start()
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, TYPE, handlers=[self._changed])

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            with contextlib.suppress(Exception):  # an interface that is gone cannot be told goodbye on
                await self._zeroconf.async_close()
        for found in self.seen.values():
            self.discovery.on_lost(found)
        self.seen.clear()

    async def tell(self, properties: dict[str, str] | None) -> None:
        """Announces these, or takes the announcement back."""
        from zeroconf.asyncio import AsyncServiceInfo

        if self._zeroconf is None:
            return
        with contextlib.suppress(Exception):  # as above: the next look finds out why
            if properties is None:
                if self._info is not None:
                    await self._zeroconf.async_unregister_service(self._info)
                    self._info = None
                return
            info = AsyncServiceInfo(
                TYPE,
                f"{self.discovery.name}.{TYPE}",
                port=self.discovery.port,
                properties=properties,
                server=f"{self.discovery.host}.local.",
                parsed_addresses=list(self.interface.addresses),
            )
            if self._info is None:
                # Random names need no probing for conflicts, which would take 0.75 s.
                await self._zeroconf.async_register_service(info, cooperating_responders=True)
            else:
                await self._zeroconf.async_update_service(info)
            self._info = info

    # --- what others announce

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        if name == f"{self.discovery.name}.{TYPE}":
            self.echo = True
            return
        if state_change is ServiceStateChange.Removed:
            if gone := self.seen.pop(name, None):
                self.discovery.on_lost(gone)
            return
        if name not in self.seen and len(self.seen) + len(self._asking) >= SEEN_MAX:
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._take(name, info)
        else:
            task = asyncio.get_running_loop().create_task(self._ask(zeroconf, name, info))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        if await info.async_request(zeroconf, 3000):
            self._take(name, info)

    def _take(self, name: str, info: AsyncServiceInfo) -> None:
        found = read(info.properties, info.parsed_scoped_addresses(), info.port)
        before = self.seen.get(name)
        if found is None or found == before:
            return
        self.seen[name] = found
        self.discovery.on_found(found)


def read(properties: dict[bytes, bytes | None], addresses: Sequence[str], port: int | None) -> Found | None:
    """What an announcement says; None when it is not of ours or makes no sense."""
    if properties.get(b"v") != b"1" or not port:
        return None
    marks = (properties.get(b"c") or b"").decode("ascii", "replace").split(",")
    good = [m for m in marks[:TAGS_MAX] if len(m) == TAG_CHARS and all(c in "0123456789abcdef" for c in m)]
    places = []
    for address in addresses[:ADDRESSES_MAX]:
        # Without its interface a link-local address leads nowhere.
        if address.lower().startswith("fe80:") and "%" not in address:
            continue
        place = noderecord.join_address(address, port)
        with contextlib.suppress(Malformed):
            noderecord.split_address(place)
            places.append(place)
    ordered = sorted(places, key=lambda a: ("%" in a, "[" not in a))
    return Found(frozenset(good), tuple(ordered), b"p" in (properties.get(b"f") or b""))

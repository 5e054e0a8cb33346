"""Who a node lets in: by address, and on IPv6 by network, where one machine has any number of addresses."""

from __future__ import annotations

from idao.node import doors
from idao.node.doors import Doors, net_of

NOW = 1000.0


def flood(all_doors: Doors, count: int, now: float, form: str = "fd77:1::{:x}") -> int:
    """Connections from as many addresses of one network that were let in."""
    return sum(all_doors.admit(form.format(n + 0x1000), now) is not None for n in range(count))


def test_an_address_has_its_share() -> None:
    one = Doors()
    assert sum(one.admit("192.0.2.1", NOW) is not None for _ in range(100)) == doors.CONNECTIONS_BURST
    assert one.admit("192.0.2.2", NOW) and not one.admit("192.0.2.1", NOW)
    assert sum(one.admit("192.0.2.1", NOW + 1) is not None for _ in range(100)) == doors.CONNECTIONS_PER_S
    door = one.admit("192.0.2.3", NOW)
    assert door is not None
    door.inside = doors.STRANGERS_PER_ADDRESS
    assert not one.admit("192.0.2.3", NOW)


def test_addresses_of_one_network_share_theirs() -> None:
    """However many there are: else each costs as much as a machine."""
    one = Doors()
    assert flood(one, 5000, NOW) == doors.NET_BURST
    assert len(one.open) == doors.ADDRESSES_PER_NET < doors.ADDRESSES_MAX
    assert one.admit("fd77:2::1", NOW), "another network is another matter"
    assert one.admit("192.0.2.1", NOW)


def test_ipv4_counts_by_address() -> None:
    one = Doors()
    assert sum(one.admit(f"10.0.{n >> 8}.{n & 255}", NOW) is not None for n in range(1000)) == 1000


def test_a_member_comes_in_through_a_flood_from_its_own_network() -> None:
    """It came before; where it came from is kept, and pays for itself alone."""
    one = Doors()
    member = one.admit("fd77:1::5", NOW)
    assert member is not None
    one.trust(b"pin", member)
    for second in range(1, 20):
        flood(one, 2000, NOW + second)
        assert one.admit("fd77:1::5", NOW + second), second
        assert len(one.open) <= doors.ADDRESSES_PER_NET
    newer = one.admit("fd77:3::9", NOW + 20)
    assert newer is not None
    one.trust(b"pin", newer)
    assert newer.trusted and not member.trusted, "of one member only the newest address is"


def test_who_rested_is_forgotten() -> None:
    one = Doors()
    flood(one, 5000, NOW)
    later = NOW + 60
    assert one.admit("fd77:1::5", later) and len(one.open) == 1
    assert flood(one, 5000, later) == doors.NET_BURST - 1, "the network's share is whole again"


def test_a_full_table_keeps_members() -> None:
    one = Doors()
    door = one.admit("10.200.0.1", NOW)
    assert door is not None
    one.trust(b"pin", door)
    for n in range(2 * doors.ADDRESSES_MAX):
        one.admit(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", NOW)
    assert len(one.open) == doors.ADDRESSES_MAX
    assert not one.admit("10.201.0.1", NOW) and one.admit("10.200.0.1", NOW + 1)


def test_networks() -> None:
    assert net_of("192.0.2.1") is None
    assert net_of("fd77:1::3") == net_of("fd77:1:0:0:ffff::1") != net_of("fd77:1:0:1::3")
    assert net_of("fe80::1%eth0") == net_of("fe80::2%eth0") != net_of("fe80::1%eth1")

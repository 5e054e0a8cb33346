"""Discovery: what is announced, what is believed of what others announce, and four machines on a LAN."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lan_world
import pytest
from lan_world import Lan, lan

from idao import noderecord
from idao.node import discovery
from idao.node.discovery import DAY_MS, Discovery, read, tag, tags
from idao.node.interfaces import interfaces, own_addresses

CHILD = "import asyncio, discovery_child; asyncio.run(discovery_child.Child().run())"
QUORUM = b"q" * 32


# --- what an announcement says ---------------------------------------------------------------------------


def test_only_members_can_tell_which_quorum() -> None:
    day = 20_000 * DAY_MS
    assert tag(QUORUM, day) == tag(QUORUM, day + DAY_MS - 1) != tag(QUORUM, day + DAY_MS)
    assert tag(QUORUM, day) != tag(b"p" * 32, day)
    assert re.fullmatch("[0-9a-f]{8}", tag(QUORUM, day))
    assert tag(QUORUM, day) in tags(QUORUM, day + DAY_MS) and tag(QUORUM, day) not in tags(
        QUORUM, day + 2 * DAY_MS
    )


@pytest.mark.parametrize(
    ("properties", "addresses", "port"),
    [
        ({}, ["10.0.0.1"], 1),
        ({b"v": b"2", b"c": b"00112233"}, ["10.0.0.1"], 1),
        ({b"v": None}, ["10.0.0.1"], 1),
        ({b"v": b"1"}, ["10.0.0.1"], 0),
        ({b"v": b"1"}, ["10.0.0.1"], None),
    ],
)
def test_announcements_of_others_are_passed_over(properties: Any, addresses: Any, port: Any) -> None:
    assert read(properties, addresses, port) is None


def test_a_hostile_announcement_yields_little() -> None:
    marks = b",".join([b"zzzzzzzz", b"00112233", b"0011223", b"\xff" * 8, b"0011223G", *[b"aaaaaaaa"] * 99])
    addresses = ["fe80::1", "fe80::2%3", "10.0.0.1", "fd00::1", "bad address", *["10.0.0.9"] * 99]
    found = read({b"v": b"1", b"c": marks, b"f": b"xpx", b"z": b"z" * 200}, addresses, 7)
    assert found is not None
    assert found.tags == {"00112233", "aaaaaaaa"} and found.pairing
    assert len(found.addresses) <= discovery.ADDRESSES_MAX
    assert found.addresses[0] == "[fd00::1]:7" and found.addresses[-1] == "[fe80::2%3]:7"
    assert "fe80::1]" not in str(found.addresses)
    for address in found.addresses:
        noderecord.split_address(address)


def test_interfaces_leave_out_what_is_no_lan() -> None:
    assert all(not re.match("lo|docker|veth", one.name) for one in interfaces())
    assert [one.name for one in interfaces(["lo"])] == ["lo"]
    assert interfaces(["no-such-interface"]) == []
    for address in own_addresses(5):
        noderecord.split_literal(address)


def test_no_interface_and_no_multicast_are_quiet(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    async def test() -> None:
        none = Discovery(1, chosen=["no-such-interface"], on_found=lambda found: None)
        await none.start()
        await none.announce([QUORUM])
        assert none.found() == [] and none.members(QUORUM) == ()
        assert [s.working for s in none.status()] == [False]
        await none.stop()

        def refused(*args: Any, **more: Any) -> None:
            raise OSError("multicast is not to be had")

        monkeypatch.setattr("zeroconf.asyncio.AsyncZeroconf", refused)
        deaf = Discovery(1, chosen=["lo"], on_found=lambda found: None)
        await deaf.start()
        await deaf.announce([QUORUM], pairing=True)
        assert "multicast is not to be had" in deaf.status()[0].trouble
        await deaf.stop()

    asyncio.run(test())
    assert capfd.readouterr().err == ""


# --- machines on a LAN ------------------------------------------------------------------------------------


class Machine:
    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child

    def tell(self, line: str) -> None:
        print(line, file=self.child.stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        return dict(json.loads(self.child.stdout.readline()))  # type: ignore[union-attr]

    def do(self, line: str) -> dict[str, Any]:
        self.tell(line)
        return self.hear()


@contextmanager
def machines(lan: Lan) -> Iterator[list[Machine]]:
    children = [lan.python(i, CHILD) for i in range(len(lan.machines))]
    try:
        made = [Machine(child) for child in children]
        for machine in made:
            machine.hear()
        yield made
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("v4", "v6"), [(True, True), (True, False), (False, True)], ids=["both", "IPv4", "IPv6"]
)
def test_four_see_each_other_come_and_go(v4: bool, v6: bool) -> None:
    with lan(4, v4=v4, v6=v6) as made, machines(made) as four:
        for one in four:
            one.tell("go clinic")
        for one in four:
            one.hear()
        for i, one in enumerate(four):
            seen = one.do("wait 3 10")
            assert seen["ok"]
            expected = {f"{a}:24326" for j, a in enumerate(made.ipv4) if j != i}
            expected |= {f"[{a}]:24326" for j, a in enumerate(made.ipv6) if j != i}
            assert expected <= set(seen["addresses"])
            own = {f"{a}:24326" for a in made.ipv4[i : i + 1]}
            own |= {f"[{a}]:24326" for a in made.ipv6[i : i + 1]}
            assert not own & set(seen["addresses"])
        time.sleep(1)  # answers that are still on their way would revive what a goodbye ends
        four[0].do("stop")
        for one in four[1:]:
            assert one.do("gone 2 10")["ok"], "a goodbye is heard"
        state = four[1].do("state")
        assert [s["name"] for s in state["interfaces"]] == ["lan0"]
        assert state["interfaces"][0]["working"]


@pytest.mark.slow
def test_two_quorums_on_one_lan_do_not_mix_and_invites_show() -> None:
    with lan(4) as made, machines(made) as four:
        for i, one in enumerate(four):
            one.do("go clinic pairing" if i == 0 else "go clinic" if i < 2 else "go other")
        for i, one in enumerate(four):
            seen = one.do("wait 1 10")
            partner = i ^ 1
            assert seen["ok"] and f"{made.ipv4[partner]}:24326" in seen["addresses"]
            assert not {f"{made.ipv4[j]}:24326" for j in range(4) if j != partner} & set(seen["addresses"])
        deadline = time.monotonic() + 5
        while f"{made.ipv4[0]}:24326" not in four[3].do("state")["inviters"]:
            assert time.monotonic() < deadline, "an open invite shows to all"
            time.sleep(0.05)
        four[3].do("again clinic")
        assert four[0].do("wait 2 10")["ok"]


@pytest.mark.slow
def test_a_changed_address_and_a_lost_interface() -> None:
    with lan(2, v6=False) as made, machines(made) as (one, two):
        for machine in (one, two):
            machine.do("go clinic")
        assert two.do("wait 1 10")["ok"]
        inside = ("-n", made.machines[0])
        lan_world.ip(*inside, "addr", "del", "10.77.0.1/24", "dev", "lan0")
        lan_world.ip(*inside, "addr", "add", "10.77.0.99/24", "dev", "lan0")
        one.do("look")
        two.do("gone 0 2")
        assert "10.77.0.99:24326" in two.do("wait 1 10")["addresses"]
        lan_world.ip(*inside, "addr", "del", "10.77.0.99/24", "dev", "lan0")
        one.do("look")
        state = one.do("state")["interfaces"]
        assert [s["working"] for s in state] == [False] and state[0]["trouble"]
        lan_world.ip(*inside, "addr", "add", "10.77.0.1/24", "dev", "lan0")
        one.do("look")
        assert one.do("wait 1 10")["ok"]


@pytest.mark.slow
def test_what_is_on_the_wire_names_nobody(tmp_path: Path) -> None:
    """All mDNS packets of a start, read raw on another machine."""
    listen = (
        "import socket, struct, sys, time\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('', 5353))\n"
        "group = socket.inet_aton('224.0.0.251') + socket.inet_aton('10.77.0.2')\n"
        "s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)\n"
        "print('{}', flush=True)\n"
        "s.settimeout(2)\n"
        "out = b''\n"
        "try:\n"
        "    while True: out += s.recv(9000)\n"
        "except TimeoutError: print('\"' + out.hex() + '\"', flush=True)\n"
    )
    with lan(2, v6=False) as made:
        ear, child = made.python(1, listen), made.python(0, CHILD)
        try:
            machine = Machine(child)
            machine.hear()
            ear.stdout.readline()  # type: ignore[union-attr]
            machine.do("go clinic")
            name = machine.do("state")["name"]
            heard = bytes.fromhex(json.loads(ear.stdout.readline()))  # type: ignore[union-attr]
            assert name.encode() in heard and b"_idao" in heard
            assert tag(b"clinic".ljust(32), discovery.now_ms()).encode() in heard
            for secret in (socket.gethostname().encode(), b"root", b"clinic", b"0.1.0"):
                assert secret not in heard
        finally:
            for process in (ear, child):
                process.kill()
                process.wait()

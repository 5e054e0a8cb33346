"""Why a quorum stands still, who of its nodes is reached how, and who signed two things."""

from __future__ import annotations

from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

from idao.errors import NotFound, UsageError
from idao.home import Home, show_time
from idao.ledger import epochs, faults, genesis, membership
from idao.model import show_id
from idao.node import calling, room
from idao.quorum import forensics

if TYPE_CHECKING:
    from idao.dao import Dao

BACK = "to come back, be invited again: idao quorum join; what is here stays readable"
SKEW_MS = 5_000
"""Half of what a block's time may be ahead: a clock that is worse will be in the way."""


class Insight:
    def __init__(self, dao: Dao) -> None:
        self._dao = dao

    # --- why

    def why(self) -> dict[str, Any]:
        """The height being decided, who has said what, who is missing and why, what would help."""
        dao = self._dao
        status = dao.quorums.status()
        live = dao.nodes.quorum(status["quorum"])
        waits = [show_id("tx", tx.id) for tx in dao.queued()]
        if live is None:
            meaning, hint = self._undriven(status)
            return {"quorum": status["quorum"], "node": False, "height": status["height"] + 1, "view": 0,
                    "leader": None, "waiting": waits, "validators": [], "help": hint,
                    "meaning": meaning}  # fmt: skip
        now = live.get("why", {})
        rows = [self._voice(v, now, live) for v in status["validators"]]
        gone = dao.quorums.left(epochs.set_of(epochs.newest(dao.state())))
        return {
            "quorum": status["quorum"],
            "node": True,
            "height": now.get("height", live["height"] + 1),
            "view": now.get("view", 0),
            "leader": now.get("leader"),
            "waiting": waits,
            "validators": rows,
            "meaning": gone or self._verdict(status, live, now, waits),
            "help": [BACK] if gone else _help(status, now, rows),
        }

    def _undriven(self, status: dict[str, Any]) -> tuple[str, list[str]]:
        """What it means that no node drives the quorum here, and what would help."""
        if status["kind"] != "group":
            return status["meaning"], []
        if why := self._dao.nodes.refused(status["quorum"]):
            return f"this node takes no part: {why}", ["see what is wrong: idao doctor"]
        return "no node of this home runs", ["start the node: idao node run"]

    def _voice(self, v: dict[str, Any], now: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
        link = next((p for p in live["peers"] if p["idao"] == v["idao"]), None)
        own = v["idao"] == show_id("idao", self._dao.me)
        missing = None
        if not own and (link is None or not link["up"]):
            since = f" since {link['since']}" if link and link["since"] else ""
            missing = f"down{since}: " + ((link or {}).get("reason") or "never linked")
        elif link and abs(link["skew_ms"] or 0) > SKEW_MS:
            missing = f"its clock differs by {link['skew_ms'] / 1000:g} s"
        return {"idao": v["idao"], "name": v["name"], "power": v["power"],
                "said": now.get("said", {}).get(v["idao"], []), "missing": missing}  # fmt: skip

    @staticmethod
    def _verdict(status: dict[str, Any], live: dict[str, Any], now: dict[str, Any], waits: list[str]) -> str:
        if now.get("halted"):
            return f"this validator has stopped signing: {now['halted']}"
        if now.get("quarantined"):
            return "this ledger was copied or restored: it asks the others before it signs again"
        if now.get("gone"):
            return f"this node cannot catch up: every member that is linked has pruned block {now['gone']}"
        if now.get("syncing"):
            return "this node is catching up"
        if now.get("unsigned_until", 0) >= now.get("height", 0) > 0:
            return f"this ledger was copied or restored: it signs again above height {now['unsigned_until']}"
        idle = not waits and not now.get("pool") and not now.get("armed")
        if not status["founder_mode"] and live["online"] * 3 <= status["size"] * 2:
            few = f"{live['online']} of {status['size']} are online: too few to decide"
            return f"{few}; nothing waits" if idle else few
        if idle:
            return "nothing waits: an idle quorum makes no blocks"
        return f"deciding height {now.get('height', 0)}, view {now.get('view', 0)}"

    # --- peers

    def peers(self) -> list[dict[str, Any]]:
        """Everybody with a seat in a group of this home but oneself, how it is reached, and how it is."""
        dao = self._dao
        from idao.node import peerbook
        from idao.node.network import manual_addresses

        manual, out = manual_addresses(dao.home), []
        for path in sorted(dao.home.ledgers_folder.glob("*.db")):
            there = dao.on(path.stem)
            with closing(there.store) as store:
                if store.bundle.genesis.kind != genesis.GROUP:
                    continue
                live = dao.nodes.quorum(f"quorum:{path.stem}") or {}
                links = {p["idao"]: p for p in live.get("peers", [])}
                book = peerbook.read(path)
                for seat in membership.seats(store.state()):
                    if seat.idao == dao.me or seat.state not in (membership.ACTIVE, membership.PENDING):
                        continue
                    shown, record = show_id("idao", seat.idao), book.get(seat.idao)
                    link = links.get(shown, {})
                    out.append(
                        {"quorum": f"quorum:{path.stem}", "idao": shown, "name": dao.petname(seat.idao),
                         "state": seat.state, "up": bool(link.get("up")), "address": link.get("address"),
                         "known": list(record.record.addresses) if record else [],
                         "given": list(manual.get(seat.idao, ())), "rtt_us": link.get("rtt_us"),
                         "skew_ms": link.get("skew_ms"), "reason": link.get("reason")}
                    )  # fmt: skip
        return out

    def add_peer(self, who: str, address: str, *, dry: bool = False) -> dict[str, Any]:
        """Where a member's node is, for networks without multicast; tried first."""
        from idao.noderecord import split_address

        idao = self._dao.resolve_person(who)
        split_address(address)
        return self._write_peer(idao, address, dry)

    def remove_peer(self, who: str, *, dry: bool = False) -> dict[str, Any]:
        idao = self._dao.resolve_person(who)
        stem = show_id("idao", idao).removeprefix("idao:")
        if stem not in self._dao.home.config.get("peers", {}):
            raise NotFound(f"no address was given for '{who}'", hint="see 'idao peer list'")
        return self._write_peer(idao, "", dry)

    def _write_peer(self, idao: bytes, address: str, dry: bool) -> dict[str, Any]:
        home = self._dao.home
        stem = show_id("idao", idao).removeprefix("idao:")
        with nullcontext() if dry else home.exclusive(self._dao.wait_s):
            home.config = Home.open(home.path).config
            peers = home.config.setdefault("peers", {})
            before = [a.strip() for a in str(peers.get(stem, "")).split(",") if a.strip()]
            now = [*before, address] if address and address not in before else before if address else []
            if not dry:
                peers.pop(stem, None)
                if now:
                    peers[stem] = ", ".join(now)
                home.save_config()
        if not dry:
            calling.ask(home.path, "reload")
        return {"idao": show_id("idao", idao), "addresses": now, **({"dry_run": True} if dry else {})}

    # --- faults

    def forensics(self) -> dict[str, Any]:
        """Who signed two conflicting things: by the ledger's record, and by certificates held here."""
        store = self._dao.store
        recorded = [
            {"idao": show_id("idao", f.idao), "name": self._dao.petname(f.idao), "kind": f.kind,
             "height": f.height, "view": f.view, "slashed": str(f.slashed), "unit": "stake",
             "where": "ledger"}
            for f in faults.recorded(store.state())
        ]  # fmt: skip
        held = []
        for a, _ in forensics.conflicts(store.all_certificates()):
            _, validators = store.validators(a.vote.height)
            who = validators.validators[a.signer].idao
            held.append(
                {"idao": show_id("idao", who), "name": self._dao.petname(who), "kind": "certificates",
                 "height": a.vote.height, "view": a.vote.view, "slashed": "0", "unit": "stake",
                 "where": "certificates"}
            )  # fmt: skip
        guilty = sorted({str(f["idao"]) for f in (*recorded, *held)})
        return {"quorum": show_id("quorum", self._dao.quorum), "guilty": guilty, "faults": [*recorded, *held]}

    # --- doctor

    def doctor(self) -> dict[str, Any]:
        """Interfaces, multicast, port, each member's reachability and clock; as checks with a way out."""
        dao = self._dao
        checks: list[dict[str, Any]] = []

        def say(name: str, ok: bool, detail: str, hint: str | None = None) -> None:
            checks.append({"name": name, "ok": ok, "detail": detail, "hint": hint})

        node = dao.nodes.status()
        say("node", node["running"], "runs" if node["running"] else "does not run", "idao node run")
        if node["running"]:
            say("port", True, f"listens on {', '.join(node['hosts'])} port {node['port']}")
            for one in node["discovery"]:
                echo = "hears itself" if one["echo"] else "does not hear its own announcement yet"
                detail = one["trouble"] or f"multicast, {echo}, {one['seen']} nodes announced there"
                say(f"interface {one['interface']}", one["working"], detail,
                    "given addresses work all the same: idao peer add ID HOST:PORT")  # fmt: skip
            for r in node["refused"]:
                say(f"ledger {r['quorum']}", False, r["why"], "idao doctor")
            short = room.lacking(dao.home.path)
            say("disk", short is None, short or "room enough", "free some space: it goes on by itself")
        for p in self.peers():
            name = f"member {p['name'] or p['idao']}"
            if not node["running"]:
                continue
            if not p["up"]:
                known = ", ".join([*p["given"], *p["known"]]) or "no address"
                say(name, False, f"not linked ({p['reason'] or 'not tried'}); known at {known}",
                    "is its node on, and does its firewall let the port in?")  # fmt: skip
                continue
            rtt = (p["rtt_us"] or 0) / 1000
            skew = p["skew_ms"] or 0
            say(name, abs(skew) <= SKEW_MS, f"linked at {p['address']}, {rtt:.1f} ms, clock {skew:+d} ms",
                "let NTP set both clocks")  # fmt: skip
        for c in checks:
            c["hint"] = None if c["ok"] else c["hint"]
        return {"ok": all(c["ok"] for c in checks), "checks": checks, "time": show_time(_now())}


def _now() -> int:
    from idao.home import now_ms

    return now_ms()


def _help(status: dict[str, Any], now: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    out = [f"bring {r['name'] or r['idao']} back ({r['missing']})" for r in rows if r["missing"]]
    if now.get("gone"):
        out.append("bring a member that keeps every block, or restore a backup of one")
    if now.get("halted"):
        out.append("compare the ledgers: idao quorum forensics")
        out.append("if no other copy of this home runs: stop the node, idao quorum repair")
    if now.get("quarantined") and status["size"] < membership.FOUR:
        out.append("with fewer than four validators nobody can vouch: idao quorum recover")
    return out


def check_address(text: str) -> str:
    from idao.errors import Malformed
    from idao.noderecord import split_address

    try:
        split_address(text)
    except Malformed as e:
        raise UsageError(e.message, hint=e.hint) from e
    return text

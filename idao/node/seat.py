"""One quorum as this process takes part in it: ledger file, member, mesh, and who may link.

Who may link follows from the ledger: admitted and active seats, and whoever left one but still decides the
next block, which may lack its vote. A ledger that is behind (it does not know of this home's own seat yet)
also links whoever the pairing or earlier days told of; what they send is judged by its certificates all the
same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from idao import __version__, noderecord
from idao.crypto.keys import Signer
from idao.home import now_ms, show_time
from idao.ledger import membership
from idao.ledger.tx import Receipt
from idao.model import Fault, show_id
from idao.node import peerbook
from idao.node.bundles import Bundles
from idao.node.engine import Engine
from idao.node.logbook import Logbook
from idao.node.member import Member
from idao.node.mesh import Mesh
from idao.node.metrics import Latency
from idao.node.peer import Allowed, LinkState
from idao.node.tls import TlsIdentity
from idao.noderecord import SignedNodeRecord
from idao.store import genesisfile, moments
from idao.store.ledger import LedgerStore

LINKED = (membership.PENDING, membership.ACTIVE)
"""Seats whose nodes may link."""
BOOK_S = 1.0
"""The book of peers is written this long after it has changed: a peer that says something else with every
frame costs a flush a second, not one a frame."""
EARLY_S = 60.0
"""How often it is said that one proposer's clock is ahead: it proposes in each of its turns."""
ALARMS_MAX = 20
"""The latest alarms are enough to act on; the log has all."""


class Seatholder:
    """Drives one ledger (`runner.Driven`)."""

    def __init__(
        self,
        path: Path,
        me: bytes,
        signers: Sequence[Signer],
        identity: TlsIdentity,
        addresses: tuple[str, ...],
        log: Logbook,
    ) -> None:
        """`signers`: the validator keys of this home that may be the seat's, newest first."""
        self.path, self.me, self._signers, self._identity, self._log = path, me, signers, identity, log
        self.store = LedgerStore.open(path)
        if moments.quarantine_rolled_back(path.parent.parent / "home.db", self.store):
            log.note("rolled-back", "warning", ledger=path.name, what=moments.LOST)
        genesisfile.keep(path, self.store.bundle)
        self.quorum = self.store.chain.quorum
        self.changed: Callable[[], None] = lambda: None
        self.failed: Callable[[BaseException], None] = lambda error: None
        """Memory is ahead of the disk: nothing more may be done with this object."""
        self.gone: Callable[[], None] = lambda: None
        self.manual: Mapping[bytes, tuple[str, ...]] = {}
        self.faults: list[Fault] = []
        """Seen, and not yet reported to the ledger."""
        self.alarms: list[dict[str, str]] = []
        self._early_told: dict[bytes, float] = {}
        self.commits = self.txs = self.faults_seen = 0
        self.committed_ms = 0
        self._latency = Latency()
        self._epoch = -1
        """Of those who may link."""
        engine = Engine(self.store, signers[0], now_ms, *signers[1:])
        self.member = _Watched(engine, asyncio.get_running_loop(), self._on_peer)
        self._bundles = Bundles(self.member, path.parent.parent)  # ledgers lie in a folder of the home
        self.records, self._whole = peerbook.read(path), set(peerbook.whole(path))
        self._unwritten: asyncio.TimerHandle | None = None
        self.mesh = Mesh(
            self.quorum, self.member, identity, self._own_record(addresses), software=f"idao {__version__}"
        )
        self._wire()

    def _wire(self) -> None:
        self.member.links = self.mesh
        self.member.on_commit = self._on_commit
        self.member.on_fault = self._on_fault
        self.member.on_kept = self._on_kept
        self.member.on_trouble = self._on_trouble
        self.member.on_broken = lambda error: self.failed(error)
        self.member.engine.on_early = self._on_early
        self.mesh.on_record = self._on_record
        self.mesh.on_duplicate = self._on_duplicate
        self.member.bundles = self._bundles
        self.member.on_bundle = lambda: self.changed()

    def _own_record(self, addresses: tuple[str, ...]) -> SignedNodeRecord:
        signer, certificate = self._seat_signer(), self._identity.certificate
        return noderecord.make(signer, self.quorum, self.me, certificate, addresses, now_ms())

    def _seat_signer(self) -> Signer:
        """The key that the ledger names; before it names one, the newest."""
        seat = membership.seat_of(self.store.state(), self.me)
        fitting = [s for s in self._signers if seat is not None and s.public == seat.key]
        return (fitting or list(self._signers))[0]

    def hold(self, signers: Sequence[Signer]) -> None:
        """The home has other validator keys by now: one that comes is here before the ledger names it."""
        self._signers = signers
        self.member.engine.hold(signers)
        self._sign_record_anew()

    def _sign_record_anew(self) -> None:
        if self._seat_signer().public != self.mesh.own.record.key:
            self.mesh.update(self._own_record(self.mesh.own.record.addresses))

    # --- life

    async def start(self) -> None:
        self.allow()
        self._bundles.look()
        self.member.start()
        self.mesh.start()

    async def stop(self) -> None:
        self.gone()
        await self.mesh.stop()
        self.member.stop()
        if self._unwritten is not None:
            self._write_book()
        self.store.close()

    def submit(self, raw: bytes) -> object:
        tx = self.member.submit(raw)
        self._latency.begin(tx.id, monotonic())
        return tx

    # --- who may link

    def allow(self) -> None:
        """Tells the mesh who may link, as the ledger stands."""
        seats, self._epoch = membership.seats(self.store.state()), self.member.engine.epoch.epoch
        deciding = {v.idao for v in self.member.seats()}
        seated = {s.idao: (s.key, s.tls) for s in seats if s.state in LINKED or s.idao in deciding}
        if self.me not in seated:
            records = {i: r.record for i, r in self.records.items() if r.record.quorum == self.quorum}
            seated = {**{i: (r.key, r.tls) for i, r in records.items()}, **seated}
        self.mesh.allow([self._allowed(idao, *ends) for idao, ends in sorted(seated.items())])

    def _allowed(self, idao: bytes, key: bytes, tls: bytes) -> Allowed:
        """A record by an older key still says where the node is, if the ledger names the same certificate."""
        return Allowed(idao, key, self.records.get(idao), self.manual.get(idao, ()), tls)

    def learn(self, records: list[SignedNodeRecord]) -> None:
        """Records that came by another way than the mesh (pairing)."""
        for signed in records:
            self._keep(signed)
        self._write_book()
        self.allow()

    def moved(self, addresses: tuple[str, ...]) -> None:
        """This machine is reached elsewhere now: peers are told."""
        if addresses != self.mesh.own.record.addresses:
            self.mesh.update(self._own_record(addresses))

    def _on_record(self, signed: SignedNodeRecord) -> None:
        self._keep(signed)

    def _keep(self, signed: SignedNodeRecord) -> None:
        record, known = signed.record, self.records.get(signed.record.idao)
        if known is not None and known.record.key == record.key and known.record.seq >= record.seq:
            return
        self.records[record.idao] = signed
        self._write_soon()

    def _on_kept(self, peer: bytes, whole: bool) -> None:
        before = set(self._whole)
        (self._whole.add if whole else self._whole.discard)(peer)
        if self._whole != before:
            self._write_soon()

    def _write_soon(self) -> None:
        if self._unwritten is None:
            self._unwritten = asyncio.get_running_loop().call_later(BOOK_S, self._write_book)

    def _write_book(self) -> None:
        if self._unwritten is not None:
            self._unwritten.cancel()
            self._unwritten = None
        try:
            peerbook.write(self.path, self.records.values(), self._whole)
        except OSError as e:
            self._log.note("peers.unwritten", "warning", quorum=self.quorum, why=e.strerror)

    # --- what happens

    def _on_commit(self, height: int, receipts: list[tuple[int, Receipt]]) -> None:
        self.commits += 1
        self.txs += len(receipts)
        now = monotonic()
        for _, receipt in receipts:
            self._latency.end(receipt.tx, now)
        self.committed_ms = now_ms()
        self._tell_block(height, len(receipts))
        if any(c.table == "seat" for _, receipt in receipts for c in receipt.changed):
            self.allow()
            self._sign_record_anew()
        elif self.member.engine.epoch.epoch != self._epoch:
            self.allow()
        if any(c.table == "attestation" for _, receipt in receipts for c in receipt.changed):
            self._bundles.look()
        self.changed()

    def _tell_block(self, height: int, receipts: int) -> None:
        """Each block at level debug; one that took more than a view always: somebody's turn was lost."""
        header = self.member.engine.newest
        view, who = (header.view, header.proposer) if header is not None else (0, None)
        level = "info" if view else "debug"
        self._log.note(
            "block.final",
            level,
            quorum=self.quorum,
            height=height,
            view=view,
            proposer=who,
            receipts=receipts,
        )

    def _on_early(self, proposer: bytes, ahead_ms: int) -> None:
        if monotonic() - self._early_told.get(proposer, -EARLY_S) < EARLY_S:
            return
        self._early_told[proposer] = monotonic()
        who = show_id("idao", proposer)
        why = (
            f"{who} proposes blocks {ahead_ms / 1000:.0f} s ahead of the clock here: one of the two is wrong"
        )
        self.alarm("clock", why=why)

    def _on_trouble(self, what: str, why: str) -> None:
        self.alarm(f"quorum.{what}", why=why)
        self.changed()

    def _on_fault(self, fault: Fault) -> None:
        self.faults_seen += 1
        who = next((v.idao for v in self.member.seats() if v.key == fault.key), fault.key)
        self.alarm("fault.seen", why=f"{show_id('idao', who)} signed two conflicting messages ({fault.kind})")
        self.faults.append(fault)
        self.changed()

    def _on_peer(self, peer: bytes, up: bool) -> None:
        state = next((link for link in self.mesh.links() if link.peer == peer), None)
        told = {"address": state.address} if up and state else {"why": state.reason if state else None}
        self._log.note("peer.up" if up else "peer.down", quorum=self.quorum, peer=peer, **told)

    def _on_duplicate(self, idao: bytes, address: str) -> None:
        whose = "this home" if idao == self.me else show_id("idao", idao)
        self.alarm("duplicate", why=f"another process runs with the keys of {whose}, at {address}")

    def alarm(self, event: str, *, why: str) -> None:
        self._log.note(event, "warning", quorum=self.quorum, why=why)
        self.alarms = [*self.alarms, {"time": show_time(now_ms()), "event": event, "why": why}][-ALARMS_MAX:]

    # --- shown

    def figures(self) -> dict[str, Any]:
        """For `metrics`: numbers under the names they get there."""
        engine, links = self.member.engine, self.mesh.links()
        anchored = self.store.checkpoint()
        return {
            "quorum": show_id("quorum", self.quorum),
            "height": engine.tip.height,
            "anchored_height": anchored[0] if anchored else 0,
            "view": self.member.why().get("view", 0),
            "validators": len(self.member.seats()),
            "mempool_transactions": len(engine.pool),
            "signing": int(bool(engine.machine.signing)),
            "blocks": self.commits,
            "receipts": self.txs,
            "faults": self.faults_seen,
            "latency": self._latency,
            "block_age_seconds": max(0, now_ms() - engine.tip.time_ms) / 1000,
            "links": [
                {"peer": show_id("idao", p.peer), "up": int(p.up), "rtt_seconds": (p.rtt_us or 0) / 1e6,
                 "skew_seconds": (p.skew_ms or 0) / 1000, "received_bytes": p.bytes_in,
                 "sent_bytes": p.bytes_out, "queue_bytes": p.queue}
                for p in links
            ],
        }  # fmt: skip

    def _why(self) -> dict[str, Any]:
        """What the height that is being decided waits for, with ids as people read them."""
        found = self.member.why()
        if not found:
            return {}
        said = {show_id("idao", bytes.fromhex(i)): words for i, words in found["said"].items()}
        return {**found, "leader": show_id("idao", found["leader"]), "said": said}

    def status(self) -> dict[str, Any]:
        engine, links = self.member.engine, self.mesh.links()
        here = {self.me, *(link.peer for link in links if link.up)}
        anchored = self.store.checkpoint()
        seats = self.member.seats()
        return {
            "height": engine.tip.height,
            "anchored": anchored[0] if anchored else 0,
            "epoch": engine.epoch.epoch,
            "size": len(seats),
            "online": sum(1 for v in seats if v.idao in here),
            "pool": len(engine.pool),
            "commits": self.commits,
            "txs": self.txs,
            "faults": self.faults_seen,
            "alarms": self.alarms,
            "why": self._why(),
            "peers": [_shown(link) for link in links],
        }


class _Watched(Member):
    """A member that also tells when peers come and go."""

    def __init__(
        self, engine: Engine, loop: asyncio.AbstractEventLoop, seen: Callable[[bytes, bool], None]
    ) -> None:
        super().__init__(engine, loop)
        self._seen = seen

    def on_up(self, peer: bytes) -> None:
        self._seen(peer, True)
        super().on_up(peer)

    def on_down(self, peer: bytes) -> None:
        self._seen(peer, False)
        super().on_down(peer)


def _shown(link: LinkState) -> dict[str, Any]:
    return {
        "idao": show_id("idao", link.peer),
        "up": link.up,
        "since": show_time(link.since_ms) if link.since_ms else None,
        "address": link.address or None,
        "rtt_us": link.rtt_us,
        "skew_ms": link.skew_ms,
        "bytes_in": link.bytes_in,
        "bytes_out": link.bytes_out,
        "queue": link.queue,
        "score": link.score,
        "reason": link.reason or None,
        "software": link.software or None,
    }

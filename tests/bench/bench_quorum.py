"""Throughput, latency and idle cost of a quorum: real processes on loopback, TLS, SQLite, the real ledger.

    python tests/bench/bench_quorum.py [--nodes 4] [--txs 20000] [--singles 200] [--comet PATH]

Each node is a process with a ledger file, a member and a mesh; the driver only says go and reads what each
process saw. With `--comet` (the path of a `cometbft` binary, v0.38) the same number of its nodes, with its
built-in key-value app, run after ours on the same machine: with its defaults, tuned as usual, and further.
Each tx meets a net at rest, there as here.
All nodes share the processors, so figures are of one machine that carries the whole quorum.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from member_world import Person, bundle_of, trust

from idao import noderecord
from idao.__main__ import GARBAGE_AFTER
from idao.crypto import canonical
from idao.home import now_ms
from idao.ledger import genesis
from idao.ledger.genesis import Bundle
from idao.ledger.tx import parse_tx
from idao.node import tls
from idao.node.engine import Engine
from idao.node.listener import Listener
from idao.node.member import Member
from idao.node.mesh import Allowed, Mesh
from idao.node.messages import COMMITS_BYTES_MAX, COMMITS_MAX
from idao.store.ledger import LedgerStore

AHEAD = 2000
"""Transactions of one node that may wait: enough to fill blocks, below what the pool takes of one iDAO."""


class Node:
    """One process: answers the driver's JSON lines on stdin."""

    def __init__(self, folder: Path, index: int, names: list[str], ports: list[int], bundle: Bundle) -> None:
        self.people = [Person(name) for name in names]
        self.me = self.people[index]
        self.port = ports[index]
        store = LedgerStore.create(folder / str(index) / "ledger.db", bundle)
        self.quorum = store.chain.quorum
        self.member = Member(Engine(store, self.me.validator, now_ms), asyncio.get_running_loop())
        self.member.on_commit = self.on_commit
        certificates = [tls.identity(folder / str(i)) for i in range(len(names))]
        records = [
            noderecord.make(p.validator, self.quorum, p.idao, c.certificate, (f"127.0.0.1:{port}",), 1)
            for p, c, port in zip(self.people, certificates, ports, strict=True)
        ]
        self.mesh = Mesh(self.quorum, self.member, certificates[index], records[index])
        self.member.links = self.mesh
        self.listener = Listener(certificates[index], self.port, ("127.0.0.1",))
        self.listener.add(self.mesh)
        self.mesh.allow(
            [Allowed(p.idao, p.validator.public, r) for p, r in zip(self.people, records, strict=True)]
        )
        self.committed = 0
        self.waiting: dict[bytes, asyncio.Future[None]] = {}

    def on_commit(self, height: int, receipts: list[Any]) -> None:
        self.committed += len(receipts)
        for _, receipt in receipts:
            if (future := self.waiting.pop(receipt.tx, None)) is not None:
                future.set_result(None)

    async def run(self) -> None:
        await self.listener.open()
        self.member.start()
        self.mesh.start()
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2**26)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            request = json.loads(line)
            answer = await getattr(self, request.pop("do"))(**request)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    async def linked(self) -> int:
        return len(self.member.up)

    async def single(self) -> float:
        """Seconds from handing a tx over until it is final here."""
        begin = time.perf_counter()
        tx = self.member.submit(self.me.tx(self.quorum, trust(0)))
        future = self.waiting[tx.id] = asyncio.get_running_loop().create_future()
        await future
        return time.perf_counter() - begin

    async def sign(self, count: int) -> int:
        self.raws = [self.me.tx(self.quorum, trust(i % 8)) for i in range(count)]
        return len(self.raws[0])

    async def load(self) -> int:
        """Hands over what `sign` made, as fast as the pool takes it; returns when all of it is final."""
        first, sent = self.committed, 0
        pool, mine = self.member.engine.pool, self.me.idao
        while sent < len(self.raws) or pool.count(mine):
            room = AHEAD - pool.count(mine)
            for raw in self.raws[sent : sent + min(room, 200)]:
                self.member.submit(raw)
                sent += 1
            await asyncio.sleep(0.002)
        return self.committed - first

    async def state(self) -> dict[str, Any]:
        used = os.times()
        path = self.member.engine.store.path
        return {
            "committed": self.committed,
            "height": self.member.engine.tip.height,
            "cpu": used.user + used.system,
            "rss_mib": int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20,
            "disk": sum(f.stat().st_size for f in path.parent.glob("ledger.db*")),
        }


class Quorum:
    """The driver's side: the processes, asked in turn or all at once."""

    def __init__(self, folder: Path, n: int) -> None:
        names = [f"bench {i}" for i in range(n)]
        bundle = bundle_of([Person(name) for name in names])
        ports = [24400 + i for i in range(n)]
        for i in range(n):
            (folder / str(i)).mkdir()
            tls.identity(folder / str(i))
        (folder / "bundle").write_bytes(canonical.pack(bundle))
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, "node", str(folder), str(i), json.dumps(names), json.dumps(ports)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for i in range(n)
        ]  # fmt: skip

    def tell(self, i: int, do: str, **more: Any) -> None:
        pipe = self.processes[i].stdin
        assert pipe is not None
        pipe.write(json.dumps({"do": do, **more}) + "\n")
        pipe.flush()

    def hear(self, i: int) -> Any:
        pipe = self.processes[i].stdout
        assert pipe is not None
        return json.loads(pipe.readline())

    def ask(self, i: int, do: str, **more: Any) -> Any:
        self.tell(i, do, **more)
        return self.hear(i)

    def all(self, do: str, **more: Any) -> list[Any]:
        for i in range(len(self.processes)):
            self.tell(i, do, **more)
        return [self.hear(i) for i in range(len(self.processes))]

    def end(self) -> None:
        for p in self.processes:
            p.kill()
            p.wait()


def show(label: str, seconds: list[float]) -> float:
    ordered = sorted(seconds)
    median, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(f"{label}: median {median * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms over {len(ordered)}")
    return median


def measure_ours(n: int, txs: int, singles: int, idle_s: float) -> float:
    with tempfile.TemporaryDirectory(prefix="idao-bench-") as place:
        quorum = Quorum(Path(place), n)
        try:
            while min(quorum.all("linked")) < n - 1:
                time.sleep(0.1)
            latencies = []
            for i in range(singles):
                latencies.append(quorum.ask(i % n, "single"))
                time.sleep(0.01)
            median = show(f"idao, {n} nodes, one tx on an idle quorum", latencies[10:])
            before = quorum.all("state")
            time.sleep(idle_s)
            after = quorum.all("state")
            idle = [(a["cpu"] - b["cpu"]) / idle_s * 100 for a, b in zip(after, before, strict=True)]
            blocks = after[0]["height"] - before[0]["height"]
            print(f"idle: {max(idle):.2f} % of a core each at most, {blocks} blocks in {idle_s:.0f} s")
            size = quorum.all("sign", count=txs // n)[0]
            before = quorum.all("state")
            begin = time.perf_counter()
            quorum.all("load")
            took = time.perf_counter() - begin
            after = quorum.all("state")
            done = after[0]["committed"] - before[0]["committed"]
            cpu = sum(a["cpu"] - b["cpu"] for a, b in zip(after, before, strict=True))
            print(
                f"load: {done} txs of {size} bytes in {took:.2f} s: {done / took:.0f} a second; "
                f"{cpu / done / n * 1e6:.0f} us of processor time a tx and node; "
                f"{after[0]['height'] - before[0]['height']} blocks; {after[0]['rss_mib']:.0f} MiB; "
                f"{(after[0]['disk'] - before[0]['disk']) / done:.0f} bytes on disk a tx"
            )
        finally:
            quorum.end()
        measure_sync(Path(place))
        return median


def measure_sync(folder: Path) -> None:
    """A node that starts empty takes in what node 0 decided: each block judged alone."""
    source = LedgerStore.open(folder / "0" / "ledger.db", readonly=True)
    giver = Engine(LedgerStore.open(folder / "0" / "ledger.db"), Person("nobody").validator, now_ms)
    (folder / "late").mkdir()
    store = LedgerStore.create(folder / "late" / "ledger.db", source.bundle)
    taker = Engine(store, Person("late").validator, now_ms)
    begin, txs = time.perf_counter(), 0
    while taker.tip.height < giver.tip.height:
        part = giver.decided(taker.tip.height + 1, COMMITS_MAX, COMMITS_BYTES_MAX)
        taker.adopt(part)
    txs = int(source.db.execute("select count(*) from receipt").fetchone()[0])
    took = time.perf_counter() - begin
    largest = max(range(1, taker.tip.height + 1), key=source.receipt_count)
    checked = [parse_tx(raw) for raw in source.block(largest)[0].txs]
    begin = time.perf_counter()
    for tx in checked:
        tx.authentic()
    floor = (time.perf_counter() - begin) / len(checked) * txs
    print(
        f"sync: {txs} txs in {taker.tip.height} blocks in {took:.2f} s: {txs / took:.0f} a second, "
        f"{took / floor:.2f} x the bare signature checks of its txs"
    )


# --- the peer -------------------------------------------------------------------------------------------


TUNED = {"timeout_commit": '"0s"', "peer_gossip_sleep_duration": '"5ms"'}
COMETS: tuple[tuple[str, dict[str, str], float], ...] = (
    ("defaults", {}, 2.5),
    ("tuned", TUNED, 0.5),
    ("tuned further", {**TUNED, "flush_throttle_timeout": '"5ms"'}, 0.5),
)
"""Name, settings, and how long its height must have stood still before the next tx: its app's hash changes
with a tx, so an empty block follows each, after `timeout_commit`. Of what is left, most is
`flush_throttle_timeout`: its links hold small messages back for up to 100 ms, three times a block."""


def comet_median(
    binary: str, n: int, singles: int, label: str, settings: dict[str, str], still_s: float
) -> float:
    """Median seconds of one `broadcast_tx_commit` on an idle net of `n` nodes with the built-in app."""
    import urllib.request

    with tempfile.TemporaryDirectory(prefix="idao-comet-") as place:
        homes = comet_homes(binary, Path(place), n, settings)
        processes = [
            subprocess.Popen(
                [binary, "node", "--home", str(h)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for h in homes
        ]
        try:
            seconds = []
            for i in range(-5, singles):
                at = f"http://127.0.0.1:{26701 + 10 * (i % n)}"
                url = f"{at}/broadcast_tx_commit?tx=%22k{i + 5}={time.time_ns()}%22"
                seconds.append(answered(urllib.request.urlopen, url, patience_s=60 if i < 0 else 10))
                await_idle(urllib.request.urlopen, f"{at}/status", still_s)
            return show(f"CometBFT, {n} nodes, {label}, one tx on an idle net", seconds[5:])
        finally:
            for p in processes:
                p.kill()
                p.wait()


def comet_homes(binary: str, place: Path, n: int, settings: dict[str, str]) -> list[Path]:
    subprocess.run(
        [binary, "testnet", "--v", str(n), "--o", str(place), "--starting-ip-address", "127.0.0.1"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    homes = [place / f"node{i}" for i in range(n)]
    ids = [
        subprocess.run(
            [binary, "show-node-id", "--home", str(h)], check=True, capture_output=True, text=True
        ).stdout.strip()
        for h in homes
    ]
    peers = ",".join(f"{name}@127.0.0.1:{26700 + 10 * i}" for i, name in enumerate(ids))
    for i, home in enumerate(homes):
        file = home / "config" / "config.toml"
        text = file.read_text()
        for key, value in {
            "proxy_app": '"kvstore"',
            "persistent_peers": f'"{peers}"',
            "addr_book_strict": "false",
            "allow_duplicate_ip": "true",
            "create_empty_blocks": "false",
            **settings,
        }.items():
            text = set_key(text, key, value)
        text = text.replace("tcp://127.0.0.1:26657", f"tcp://127.0.0.1:{26701 + 10 * i}")
        text = text.replace("tcp://0.0.0.0:26657", f"tcp://127.0.0.1:{26701 + 10 * i}")
        text = text.replace("tcp://0.0.0.0:26656", f"tcp://127.0.0.1:{26700 + 10 * i}")
        file.write_text(text)
    return homes


def await_idle(urlopen: Any, url: str, still_s: float) -> None:
    """Until the height at `url` has not grown for `still_s` seconds."""
    height, since = "", time.monotonic()
    while time.monotonic() - since < still_s:
        time.sleep(still_s / 10)
        with urlopen(url, timeout=30) as answer:
            now = json.load(answer)["result"]["sync_info"]["latest_block_height"]
        if now != height:
            height, since = now, time.monotonic()


def answered(urlopen: Any, url: str, patience_s: float) -> float:
    end = time.monotonic() + patience_s
    while True:
        begin = time.perf_counter()
        try:
            with urlopen(url, timeout=30) as answer:
                body = json.load(answer)
            if "result" in body and int(body["result"]["height"]) > 0:
                return time.perf_counter() - begin
        except OSError:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"no answer from {url}")
        time.sleep(0.2)


def set_key(text: str, key: str, value: str) -> str:
    """The config with `key` set, wherever it stands; the run ends if it is not there just once."""
    lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in text.splitlines()]
    if sum(line == f"{key} = {value}" for line in lines) != 1:
        raise SystemExit(f"this version's config has no single '{key}'")
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["node"]:
        gc.set_threshold(GARBAGE_AFTER)  # as `idao node run` starts
        folder, index, names, ports = sys.argv[2:6]
        bundle = canonical.unpack(Bundle, Path(folder, "bundle").read_bytes())
        genesis.check_bundle(bundle)

        async def run() -> None:
            await Node(Path(folder), int(index), json.loads(names), json.loads(ports), bundle).run()

        asyncio.run(run())
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--txs", type=int, default=20_000)
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--idle", type=float, default=10.0)
    parser.add_argument("--comet", default="")
    given = parser.parse_args()
    mine = measure_ours(given.nodes, given.txs, given.singles, given.idle)
    if given.comet:
        for label, settings, still_s in COMETS:
            theirs = comet_median(given.comet, given.nodes, 20, label, settings, still_s)
            print(f"ratio of medians, idao to CometBFT, {label}: {mine / theirs:.3f}")


if __name__ == "__main__":
    main()

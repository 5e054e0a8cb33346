"""A node's discovery as a process of its own; commands on stdin, one JSON line each on stdout.

ready                         -> when imports are done
go QUORUM [pairing]           -> starts and announces
wait N SECONDS                -> until N others of the quorum are seen: {"seconds": …, "addresses": […]}
gone N SECONDS                -> until at most N are seen
again QUORUM                  -> announces another quorum
look                          -> looks at the interfaces now
state                         -> interfaces, inviters
stop                          -> says goodbye
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import zeroconf.asyncio  # noqa: F401  # its import is not what is measured

from idao.node.discovery import Discovery


class Child:
    def __init__(self) -> None:
        self.discovery = Discovery(24326, on_found=lambda found: None)
        self.quorum = b""
        self.begun = 0.0

    async def go(self, quorum: str, *flags: str) -> dict[str, Any]:
        self.begun = time.monotonic()
        await self.discovery.start()
        return await self.again(quorum, *flags)

    async def again(self, quorum: str, *flags: str) -> dict[str, Any]:
        self.quorum = quorum.encode().ljust(32)
        await self.discovery.announce([self.quorum], pairing="pairing" in flags)
        return {}

    def others(self) -> int:
        from idao.node.discovery import tags

        wanted = tags(self.quorum, self.discovery.clock_ms())
        return sum(1 for found in self.discovery.found() if found.tags & wanted)

    async def wait(self, count: str, seconds: str) -> dict[str, Any]:
        return await self.until(lambda: self.others() >= int(count), float(seconds))

    async def gone(self, count: str, seconds: str) -> dict[str, Any]:
        return await self.until(lambda: self.others() <= int(count), float(seconds))

    async def until(self, test: Any, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not test() and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        taken = time.monotonic() - self.begun
        return {"ok": test(), "seconds": taken, "addresses": self.discovery.members(self.quorum)}

    async def look(self) -> dict[str, Any]:
        await self.discovery._look()
        return {}

    async def state(self) -> dict[str, Any]:
        shown = [
            {name: getattr(s, name) for name in s.__slots__}  # type: ignore[attr-defined]
            for s in self.discovery.status()
        ]
        return {"interfaces": shown, "inviters": self.discovery.inviters(), "name": self.discovery.name}

    async def run(self) -> None:
        print("{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            word, *args = line.split()
            if word == "stop":
                await self.discovery.stop()
                print("{}", flush=True)
                return
            print(json.dumps(await getattr(self, word)(*args)), flush=True)


if __name__ == "__main__":
    asyncio.run(Child().run())

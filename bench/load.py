"""One client process of a benchmark: calls of the SDK, as many in flight as it is told, for as long as it is told.

It gets its orders as JSON in its argument, says `ready` once it has warmed up, begins at a line on standard input, and
ends with a JSON object on standard output: how many signatures it got, what else it met, and each call's latency.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from privyseal import SignatureScheme, aio
from privyseal.errors import ServiceError


@dataclass(frozen=True)
class Orders:
    """`in_flight` calls of `batch` checksums each (1 is a unary call), for `seconds`; with `per_s`, calls begin at that
    rate whether or not others were answered. `timeout_s` is each call's deadline."""

    address: str
    folder: str
    caller: str
    in_flight: int
    seconds: float
    batch: int = 1
    channels: int = 1
    per_s: float = 0.0
    timeout_s: float = 20.0


class Load:
    """The calls of one client, and what they met."""

    def __init__(self, orders: Orders, client: aio.Client) -> None:
        self._orders = orders
        self._client = client
        self._checksums = [sha256(bytes([n % 256, n // 256])).digest() for n in range(orders.batch)]
        self.signatures = 0
        self.latencies_s: list[float] = []
        self.failures: Counter[str] = Counter()

    async def call(self) -> None:
        begun_s = time.perf_counter()
        scheme = SignatureScheme.CAPGO_V3
        try:
            if self._orders.batch == 1:
                await self._client.sign_checksum(self._checksums[0], scheme=scheme, key="bench")
                done = 1
            else:
                results = await self._client.batch_sign_checksums(self._checksums, scheme=scheme, key="bench")
                done = sum(not isinstance(result, ServiceError) for result in results)
                self.failures.update(result.code.name for result in results if isinstance(result, ServiceError))
        except ServiceError as error:
            self.failures[error.code.name] += 1
            return
        self.signatures += done
        self.latencies_s.append(time.perf_counter() - begun_s)

    async def run(self, seconds: float) -> float:
        """Make calls for so long; the seconds that it took until the last answer."""
        begun_s = time.perf_counter()
        if self._orders.per_s:
            await self._run_open(begun_s + seconds)
        else:
            await asyncio.gather(*(self._run_closed(begun_s + seconds) for _ in range(self._orders.in_flight)))
        return time.perf_counter() - begun_s

    async def _run_closed(self, until_s: float) -> None:
        while time.perf_counter() < until_s:
            await self.call()

    async def _run_open(self, until_s: float) -> None:
        calls = []
        next_s = time.perf_counter()
        while next_s < until_s:
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
            calls.append(asyncio.ensure_future(self.call()))
            next_s += 1 / self._orders.per_s
        await asyncio.gather(*calls)


async def main() -> None:
    orders = Orders(**json.loads(sys.argv[1]))
    folder = Path(orders.folder)
    certificate, key = folder / f"{orders.caller}.pem", folder / f"{orders.caller}-key.pem"
    options = {"timeout_s": orders.timeout_s, "channels": orders.channels}
    async with aio.Client(orders.address, ca=folder / "ca.pem", cert=certificate, cert_key=key, **options) as client:
        await Load(replace(orders, per_s=0.0), client).run(0.5)
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        load = Load(orders, client)
        took_s = await load.run(orders.seconds)
    print(
        json.dumps(
            {
                "signatures": load.signatures,
                "seconds": took_s,
                "latencies_s": load.latencies_s,
                "failures": dict(load.failures),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())

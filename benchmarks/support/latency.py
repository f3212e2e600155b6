"""A network that is far away: a TCP proxy that holds every request back for a while, and may break connections off.

It runs as a process of its own, so that neither a test's threads nor a benchmark's processor time are its.
What a client sends is passed on ``delay`` seconds later, the first of a connection twice that, for its handshake; what
the server answers passes at once. So a request takes one round trip of ``delay`` more, and bandwidth stays as it is.
With ``resets`` that share of what clients send ends the connection, before or in the middle of the answer.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

CHUNK = 1 << 16


class Proxy:
    """Passes connections on to a server."""

    def __init__(self, host: str, port: int, delay: float, resets: float, seed: int) -> None:
        self.upstream, self.delay, self.resets = (host, port), delay, resets
        self.random = random.Random(seed)
        self.requests = self.broken = 0

    async def serve(self) -> None:
        """Until SIGTERM; prints the port, and at the end how much came and how much was broken off."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=256)
        print(server.sockets[0].getsockname()[1], flush=True)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        print(self.requests, self.broken, flush=True)

    async def _connection(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        try:
            server, send = await asyncio.open_connection(*self.upstream)
        except OSError:
            answer.transport.abort()
            return
        fate = Fate()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._requests(client, send, fate))
                both.create_task(self._answers(server, answer, fate))
        except* OSError:
            pass
        finally:
            for side in (answer, send):
                side.transport.abort()

    async def _requests(self, client: asyncio.StreamReader, send: asyncio.StreamWriter, fate: Fate) -> None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def pass_on() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    raise ConnectionResetError
                send.write(data)
                await send.drain()

        async with asyncio.TaskGroup() as both:
            both.create_task(pass_on())
            first = True
            while data := await client.read(CHUNK):
                self.requests += 1
                if self.random.random() < self.resets:
                    self.broken += 1
                    if self.random.random() < 0.5:
                        raise ConnectionResetError
                    fate.bytes_left = self.random.randrange(2000)
                await waiting.put((loop.time() + self.delay * (1 + first), data))
                first = False
            await waiting.put((loop.time(), b""))

    async def _answers(self, server: asyncio.StreamReader, answer: asyncio.StreamWriter, fate: Fate) -> None:
        while data := await server.read(CHUNK):
            if fate.bytes_left is not None and len(data) >= fate.bytes_left:
                answer.write(data[: fate.bytes_left])
                await answer.drain()
                raise ConnectionResetError
            answer.write(data)
            await answer.drain()
        raise ConnectionResetError


class Fate:
    """Of a connection: after how many more bytes of an answer it breaks."""

    bytes_left: int | None = None


class Far:
    """A running proxy."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"

    def stop(self) -> tuple[int, int]:
        """End it; how many requests came, and how many connections it broke off."""
        self._process.send_signal(signal.SIGTERM)
        words = self._process.communicate(timeout=20)[0].split()
        return int(words[0]), int(words[1])


@contextmanager
def far(endpoint: str, delay: float, resets: float = 0.0, seed: int = 0) -> Iterator[Far]:
    """A proxy in front of ``http://host:port``, until the end of the block; ``delay`` in seconds."""
    url = urlsplit(endpoint)
    arguments = [str(url.hostname), str(url.port), str(delay), str(resets), str(seed)]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.support.latency", *arguments], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        yield Far(process)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    host, port, *numbers, seed = sys.argv[1:]
    asyncio.run(Proxy(host, int(port), float(numbers[0]), float(numbers[1]), int(seed)).serve())

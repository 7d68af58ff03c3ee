"""The line between browser and server, which a test can pull out and plug in again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


class Line:
    """A TCP relay on loopback, in a thread of its own.

    Parameters
    ----------
    target
        Port of the server on 127.0.0.1.

    Attributes
    ----------
    port : int
        Port for the browser.
    """

    def __init__(self, target: int) -> None:
        self._target, self._open, self._lost = target, True, False
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @contextmanager
    def cut(self) -> Iterator[None]:
        """End every connection and refuse new ones, as where a server's network has gone."""
        self._open = False
        self._call(self._end_all())
        try:
            yield
        finally:
            self._open = True

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Lose all that is sent without telling either side, then end the connections.

        So it is for a computer that sleeps or changes its network: what was sent into the old
        connection never arrives, and only later does its sender learn of it.
        """
        self._lost = True
        try:
            yield
        finally:
            self._call(self._end_all())
            self._lost = False

    def close(self) -> None:
        """End all connections and the thread."""
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open or self._lost:
            writer.transport.abort()
            return
        ends = {writer}
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ends.add(there_writer)
            self._ends |= ends
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, there_writer))
                both.create_task(self._copy(there_reader, writer))
        except* OSError:
            pass  # one side has gone: so must the other
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if not self._lost:
                writer.write(data)
                await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _end_all(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _stop(self) -> None:
        self._server.close()
        await self._end_all()
        relays = asyncio.all_tasks() - {asyncio.current_task()}
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

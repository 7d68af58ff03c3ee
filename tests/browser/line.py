"""The line between browser and server, which a test can pull out and plug in again."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


class Line:
    """A TCP relay on loopback to a port, in a thread of its own; `port` is for the browser."""

    def __init__(self, target: int) -> None:
        self._target, self._is_cut, self._is_dead = target, False, False
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        server = self._call(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port: int = server.sockets[0].getsockname()[1]

    @contextmanager
    def cut(self) -> Iterator[None]:
        """End every connection and refuse new ones, as where a server's network has gone."""
        self._is_cut = True
        self._call(self._end_all())
        try:
            yield
        finally:
            self._is_cut = False

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Lose what is sent, then end the connections, as where a computer sleeps."""
        self._is_dead = True
        try:
            yield
        finally:
            self._call(self._end_all())
            self._is_dead = False

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            if not self._is_cut and not self._is_dead:
                there_reader, there_writer = await asyncio.open_connection(
                    "127.0.0.1", self._target
                )
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
            if not self._is_dead:
                writer.write(data)
                await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _end_all(self) -> None:
        for end in self._ends:
            end.transport.abort()

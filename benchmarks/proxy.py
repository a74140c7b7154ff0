"""Between a service and its PostgreSQL: passes all on, and loses the answer to a commit at times.

The commit is done, and the connection breaks before anybody is told: to whoever waits for the
answer it is the same as a commit that never was. It knows a commit by the simple query `COMMIT`
that psycopg sends (https://www.postgresql.org/docs/current/protocol-message-formats.html).
"""

import random
import select
import socket
import threading
from pathlib import Path

from sqlalchemy import make_url

PORT = 5432
COMMIT = b"Q\0\0\0\x0bCOMMIT\0"
PIECE = 1 << 16


class Proxy:
    """Listens on a socket in a folder; `url` is the one to give to the service."""

    def __init__(self, folder: Path, url: str) -> None:
        target = make_url(url)
        self.host = str(target.query.get("host") or target.host or "localhost")
        self.port = target.port or PORT
        self.loses = 0.0  #: of all commits, how many lose their answer from now on
        self.lost = 0
        self.chance = random.Random(1)
        # A socket's path may be 107 characters long.
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / f".s.PGSQL.{PORT}"))
        self.listener.listen()
        beside = target.set(host=None, port=None, query={"host": str(folder)})
        self.url = beside.render_as_string(hide_password=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Nobody new gets through any more."""
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # it was closed
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, self._server() as server:
            is_lost = False
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    asked = client.recv(PIECE)
                    if not asked:
                        return
                    is_lost |= COMMIT in asked and self.chance.random() < self.loses
                    server.sendall(asked)
                if server in ready:
                    answered = server.recv(PIECE)
                    if is_lost:
                        self.lost += 1
                    if is_lost or not answered:
                        return
                    client.sendall(answered)

    def _server(self) -> socket.socket:
        if not self.host.startswith("/"):
            return socket.create_connection((self.host, self.port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self.host}/.s.PGSQL.{self.port}")
        return server

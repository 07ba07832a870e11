"""Between a client and a server on loopback: answers that are slow, 503, cut short or reset, at random."""

import contextlib
import random
import socket
import struct
import threading
import time

FAULTS = ("slow", "503", "cut", "reset")
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Listens on `port`; a share of what clients send meets a fault. `counts` says how many of each."""

    def __init__(self, server: int, share: float, seed: int = 0) -> None:
        self.counts = dict.fromkeys(FAULTS, 0)
        self._server, self._share, self._rng = server, share, random.Random(seed)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._socket.getsockname()[1]

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        cut = threading.Event()
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._server)) as server:
            threading.Thread(target=self._answer, args=(server, client, cut), daemon=True).start()
            while content := client.recv(65536):
                fault = self._rng.choice(FAULTS) if self._rng.random() < self._share else ""
                if fault:
                    self.counts[fault] += 1
                if fault == "slow":
                    time.sleep(0.3)
                elif fault == "503":
                    client.sendall(UNAVAILABLE)
                    return
                elif fault == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                elif fault == "cut":
                    cut.set()
                server.sendall(content)

    @staticmethod
    def _answer(server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while content := server.recv(65536):
                if cut.is_set():
                    client.sendall(content[: len(content) // 2])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(content)
            client.shutdown(socket.SHUT_WR)

"""Real servers in processes of their own, which may be killed, frozen, and started again on the same port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from tests.receivers import install
from tests.receivers.process import HOST, eventually, reserved_ports

_PROGRAM = Path(__file__).with_name("http_server.py")
# They must not take settings that were meant for the program under test, nor be measured: some are killed.
_ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
# Nobody is left behind where the tests themselves are killed.
_DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class Server:
    """Listens on `host` and `port` once started."""

    host = HOST

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        with ExitStack() as stack:
            (port,) = stack.enter_context(reserved_ports(1))
            server = cls(port)
            stack.callback(server.kill)
            server.start()
            yield server

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*_DIES_WITH_US, *self.command()],
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._listens)

    def kill(self) -> None:
        """As `kill -9` does: nothing is said to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It holds on to its connections, the system accepts new ones in its name, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.command()[0]} ended with {self._process.returncode}")
        try:
            socket.create_connection((self.host, self.port), 10.0).close()
        except OSError:
            return False
        return True


class HttpServer(Server):
    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-I", "-S", _PROGRAM, str(self.port)]


class RedisServer(Server):
    def command(self) -> Sequence[str | Path]:
        program = install.redis_server()
        return [program, "--port", str(self.port), "--bind", self.host, "--save", "", "--appendonly", "no"]

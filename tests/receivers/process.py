"""What the receivers share: ports, processes that end with the tests, waiting for what comes from another process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

HOST = "127.0.0.1"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# A receiver must not take settings that were meant for the program under test (OTEL_*, HOST, PORT, ...).
_ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
# Nobody is left behind where the tests themselves are killed.
_DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports on loopback that refuse connections until a server of the holder's listens on them.

    They stay bound, so that the kernel gives them to nobody else meanwhile; Linux lets a server that sets SO_REUSEADDR
    (as HTTP servers and gRPC do) listen all the same.
    """
    with ExitStack() as stack:
        ports: list[int] = []
        for _ in range(count):
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((HOST, 0))
            ports.append(held.getsockname()[1])
        yield ports


def eventually(probe: Callable[[], T], holds: Callable[[T], object] = bool, *, timeout: float = 30.0) -> T:
    """What `probe` returns once `holds` is true of it; asked again and again, at most for `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        last = probe()
        if holds(last):
            return last
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {timeout} s; seen last: {last!r}")
        time.sleep(0.05)


def fetch(url: str, **parameters: str) -> bytes:
    """The body of a GET; a refusal carries the receiver's explanation as a note."""
    query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
    try:
        with _OPENER.open(url + query, timeout=10.0) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as refusal:
        with refusal:
            refusal.add_note(refusal.read().decode(errors="replace"))
        raise


def fetch_json(url: str, **parameters: str) -> Any:
    return json.loads(fetch(url, **parameters))


@contextmanager
def running(command: Sequence[str | Path], folder: Path, ready_at: str) -> Iterator[None]:
    """A process that has answered at `ready_at` when the block begins and is gone when it ends.

    Its working folder keeps what it writes, its output among it. It also ends with the thread that started it, which
    therefore has to be the main one.
    """
    log = folder / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_DIES_WITH_US, *command],
            cwd=folder,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}")
        try:
            fetch(ready_at)
        except OSError:
            return False
        return True

    try:
        try:
            eventually(is_ready)
        except (AssertionError, RuntimeError) as error:
            error.add_note(log.read_text(errors="replace")[-4000:])
            raise
        yield
    finally:
        # What it would write down on the way out is thrown away with the folder.
        process.kill()
        process.wait()

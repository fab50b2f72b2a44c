"""Fetches the servers that tests speak to: `python -m tests.receivers.install`.

They go to `.tools/` of the checkout, or to where the environment variable RESILIENT_TOOLS points; nothing is installed
into the system, and root is not needed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TEST_AGENT = "ddapm-test-agent==1.69.1"
PATIENCE = 600.0


class CannotInstall(Exception):
    """A receiver is neither here nor to be had; the message says what was tried."""


def tools() -> Path:
    return Path(os.environ.get("RESILIENT_TOOLS") or Path(__file__).parents[2] / ".tools").absolute()


def prometheus() -> Path:
    return _prometheus_program("prometheus")


def promtool() -> Path:
    return _prometheus_program("promtool")


def otlp_agent() -> Path:
    # It pins an older opentelemetry-proto than ours, so that it needs an environment of its own.
    return _installed("test-agent", TEST_AGENT, _install_test_agent, "bin/ddapm-test-agent")


def redis_server() -> Path:
    """The one on the PATH, or else the distribution's, with the libraries that it needs."""
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    if not has_redis_server():
        raise CannotInstall("redis-server is not on the PATH, and there is no apt-get and dpkg to fetch it with")
    return _installed("redis", "redis-server of the distribution", _unpack_redis, "bin/redis-server")


def has_redis_server() -> bool:
    """Is there one, or what fetches it? Its tests are skipped elsewhere, and nowhere else."""
    return shutil.which("redis-server") is not None or (
        shutil.which("apt-get") is not None and shutil.which("dpkg") is not None
    )


def _prometheus_program(name: str) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        found = shutil.which(name)
        if found is None:
            raise CannotInstall(f"{name} is not on the PATH, and there is no apt-get and dpkg to fetch it with")
        return Path(found)
    return _installed("prometheus", "prometheus of the distribution", _unpack_prometheus, f"usr/bin/{name}")


def _installed(name: str, what: str, build: Callable[[Path], None], program: str) -> Path:
    """The path of `program` in the folder `name`; whoever comes while another builds waits and uses the result."""
    home = tools() / name
    mark = home / "complete"

    def is_complete() -> bool:
        # An environment outlives the Python that it was made with, and is then of no use.
        return mark.is_file() and mark.read_text() == what and shutil.which(home / program) is not None

    if not is_complete():
        home.parent.mkdir(parents=True, exist_ok=True)
        with (home.parent / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_complete():
                started = time.monotonic()
                _say(f"fetching {what} into {home}")
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
                build(home)
                mark.write_text(what)
                _say(f"{name} is ready after {time.monotonic() - started:.0f} s")
    return home / program


def _unpack_prometheus(home: Path) -> None:
    _unpack(home, lambda apt: ["prometheus"])


def _unpack_redis(home: Path) -> None:
    def packages(apt: list[str]) -> list[str]:
        # The program itself is in redis-tools. A bare machine has none of its libraries but that of C.
        needed = _run(["apt-cache", *apt, "depends", "redis-tools"], home)
        libraries = re.findall(r"^ *\|?Depends: ((?:lib|lua)[a-z0-9.+-]+)$", needed, re.MULTILINE)
        return ["redis-server", "redis-tools", *(name for name in libraries if name != "libc6")]

    _unpack(home, packages)
    folders = sorted({str(found.parent) for found in home.rglob("*.so.*")})
    program = home / "bin" / "redis-server"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f'#!/bin/sh\nexport LD_LIBRARY_PATH="{":".join(folders)}"\nexec "{home}/usr/bin/redis-server" "$@"\n'
    )
    program.chmod(0o755)
    _run([str(program), "--version"], home)


def _unpack(home: Path, packages: Callable[[list[str]], list[str]]) -> None:
    """Unpack what `packages` names, given the options for apt, into `home`."""
    apt = ["-q", "-o", "APT::Sandbox::User=root"]
    try:
        _run(["apt-get", *apt, "download", *packages(apt)], home)
    except CannotInstall:
        # No package lists on this machine, or lists that name what the archive no longer has: read them afresh, but
        # into a place of our own.
        _say("reading the package lists of the distribution")
        own = home / "apt"
        for folder in ("lists/partial", "archives/partial"):
            (own / folder).mkdir(parents=True)
        apt += ["-o", f"Dir::State={own}", "-o", f"Dir::State::lists={own}/lists", "-o", f"Dir::Cache={own}"]
        _run(["apt-get", *apt, "update"], home)
        _run(["apt-get", *apt, "download", *packages(apt)], home)
        shutil.rmtree(own)
    for package in home.glob("*.deb"):
        _run(["dpkg", "-x", package.name, "."], home)
        package.unlink()


def _install_test_agent(home: Path) -> None:
    _run([sys.executable, "-m", "venv", "."], home)
    _run(["bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TEST_AGENT], home)


def _run(command: list[str], folder: Path) -> str:
    # The environment that calls is not the one that is being made.
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise CannotInstall(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _say(text: str) -> None:
    sys.stderr.write(f"receivers: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        for program in (prometheus(), promtool(), otlp_agent()):
            _say(f"{program}")
        _say(f"{redis_server()}" if has_redis_server() else "no redis-server: its tests are skipped")
    except CannotInstall as error:
        sys.exit(f"receivers: {error}")

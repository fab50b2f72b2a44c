"""Fetches the receivers that the telemetry tests speak to: `python -m tests.receivers.install`.

They go to `.tools/` of the checkout, or to where the environment variable RESILIENT_TOOLS points; nothing is installed
into the system, and root is not needed.
"""

from __future__ import annotations

import fcntl
import os
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
    apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
    try:
        _run([*apt, "download", "prometheus"], home)
    except CannotInstall:
        # No package lists on this machine, or lists that name what the archive no longer has: read them afresh, but
        # into a place of our own.
        _say("reading the package lists of the distribution")
        own = home / "apt"
        for folder in ("lists/partial", "archives/partial"):
            (own / folder).mkdir(parents=True)
        apt += ["-o", f"Dir::State={own}", "-o", f"Dir::State::lists={own}/lists", "-o", f"Dir::Cache={own}"]
        _run([*apt, "update"], home)
        _run([*apt, "download", "prometheus"], home)
        shutil.rmtree(own)
    (package,) = home.glob("prometheus_*.deb")
    _run(["dpkg", "-x", package.name, "."], home)
    package.unlink()


def _install_test_agent(home: Path) -> None:
    _run([sys.executable, "-m", "venv", "."], home)
    _run(["bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TEST_AGENT], home)


def _run(command: list[str], folder: Path) -> None:
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


def _say(text: str) -> None:
    sys.stderr.write(f"receivers: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        for program in (prometheus(), promtool(), otlp_agent()):
            _say(f"{program}")
    except CannotInstall as error:
        sys.exit(f"receivers: {error}")

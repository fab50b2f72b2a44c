"""Every check of the project. `nox --list` shows them; CONTRIBUTING.md says which to run when."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import tempfile
from pathlib import Path

import nox

# The running one joins where it is another: else a machine with only that one would skip every test and call it a pass.
PYTHONS = list(dict.fromkeys(["3.11", "3.12", "3.13", f"{sys.version_info.major}.{sys.version_info.minor}"]))
GROUPS = nox.project.load_toml("pyproject.toml")
HERE = Path(__file__).parent
# Half of what the tests take is waiting: for servers, for other processes, for the clock.
WORKERS = str(max(2, 3 * (os.cpu_count() or 1) // 2))

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "typing", "tests", "docs", "package"]

# uv trusts its own list of authorities unless told otherwise; behind a company's proxy only the system's list will do.
if ssl.get_default_verify_paths().cafile or ssl.get_default_verify_paths().capath:
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")

LEFT_OUT_OF_IMPORT = ("anyio", "asyncio", "opentelemetry", "prometheus_client", "structlog", "wrapt")
CHECK_INSTALLED = f"""
import sys, pathlib, resilient
heavy = [name for name in {LEFT_OUT_OF_IMPORT!r} if name in sys.modules]
assert not heavy, f"`import resilient` also imports {{heavy}}"
home = pathlib.Path(resilient.__file__).parent
assert home.is_relative_to(sys.prefix), f"imported from {{home}}, not from the wheel"
assert (home / "py.typed").is_file(), "py.typed is not in the wheel"
"""


def install(session: nox.Session, *groups: str) -> None:
    session.install("-e", ".", *nox.project.dependency_groups(GROUPS, *groups))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The test suite, on the oldest Python with branch coverage; `-- ARGS` go to pytest and leave out its bound."""
    install(session, "tests")
    # The real receivers that the tests of telemetry speak to; here, so that a slow download is seen.
    session.run("python", "-m", "tests.receivers.install")
    if session.python != PYTHONS[0] and shutil.which(f"python{PYTHONS[0]}"):
        # Measuring takes half as long again, and finds the same.
        session.run("pytest", "-n", WORKERS, *session.posargs)
        return
    data = Path(session.create_tmp()) / "coverage"
    for old in data.parent.glob("coverage*"):
        old.unlink()
    env = {"COVERAGE_FILE": str(data)}
    # pytest loads our own plugin before any coverage plugin could start, so coverage starts pytest.
    session.run("coverage", "run", "-m", "pytest", "-n", WORKERS, *session.posargs, env=env)
    session.run("coverage", "combine", "--quiet", env=env)
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []), env=env)


@nox.session(python=PYTHONS)
def torture(session: nox.Session) -> None:
    """Races by the hundred thousand; takes minutes."""
    install(session, "tests")
    session.run("pytest", "-m", "torture", *session.posargs, env={"RESILIENT_TORTURE": "full"})


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, and the floors that imports may not climb."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")
    session.run("codespell")


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict and pyright over the package and the examples of exact types; pyrefly and ty over these alone."""
    install(session, "typing")
    examples = ["tests/typing"] if (HERE / "tests/typing").is_dir() else []
    session.run("mypy", "--strict", "resilient", *examples)
    session.run("pyright", "resilient", *examples)
    if examples:
        session.run("pyrefly", "check", "tests/typing/api.py")
        session.run("ty", "check", "--quiet", "tests/typing/api.py")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as HTML; a warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-E", "docs", "docs/_build/html", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Watch real calls survive an outage; `-- ARGS` go to `resilient demo`."""
    session.install("-e", ".[cli]")
    # Ctrl-C reaches the demo too: let it print its summary instead of killing it after nox's usual 0.3 s.
    session.run("python", "-m", "resilient", "demo", *session.posargs, interrupt_timeout=10.0, terminate_timeout=5.0)


@nox.session(python=PYTHONS)
def bench(session: nox.Session) -> None:
    """What guarded calls cost here and in other libraries; `-- ARGS` as in `-- --help`; without: all of it, kept."""
    install(session, "bench", "peers")
    kept = HERE / "benchmarks" / "results"
    files = {version: kept / f"cpython-{version}.json" for version in PYTHONS}
    session.run("python", "-m", "benchmarks.peers", *(session.posargs or ["--output", str(files[str(session.python)])]))
    if not session.posargs:
        measured = [str(file) for file in files.values() if file.is_file()]
        session.run("python", "-m", "benchmarks.peers", "--from", *measured, "--picture", "--document", silent=True)


@nox.session
def bench_parts(session: nox.Session) -> None:
    """What each policy costs by itself, and counting, spans and degradation; `-- ARGS` go to pyperf."""
    install(session, "bench")
    for script in sorted((HERE / "benchmarks").glob("bench_*.py")):
        session.run("python", str(script), *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build, install the wheel alone, import it away from the checkout, run the demo for 3 s."""
    session.install("build")
    dist = Path(session.create_tmp()) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    (wheel,) = dist.resolve().glob("*.whl")
    (sdist,) = dist.resolve().glob("*.tar.gz")
    session.log(f"built {wheel.name} and {sdist.name}")
    with tempfile.TemporaryDirectory() as away:
        session.run("python", "-m", "venv", f"{away}/venv")
        scripts = Path(away) / "venv" / ("Scripts" if os.name == "nt" else "bin")
        python = str(scripts / "python")
        with session.chdir(away):
            session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
            session.run(python, "-c", CHECK_INSTALLED, external=True)
            session.run(str(scripts / "resilient"), "--help", silent=True, external=True)
            session.run(python, "-m", "resilient", "demo", "--seconds", "3", "--plain", external=True)


@nox.session
def mutation(session: nox.Session) -> None:
    """Change the code in small ways and see whether the tests notice; `-- --sample N --seed S`, or `-- --all`."""
    install(session, "mutation")
    work = Path(session.create_tmp()) / "mutation"
    session.run("python", "-m", "tools.mutation", "--work", str(work), *session.posargs)


@nox.session(python=PYTHONS[0])
def peers(session: nox.Session) -> None:
    """Known bugs of libraries like this one, in all of them; fails where ours has one. `-- --document` writes them."""
    install(session, "peers")
    session.run("python", "-m", "benchmarks.peer_bugs", *session.posargs)


@nox.session(python=PYTHONS)
def load(session: nox.Session) -> None:
    """Load, outages and ten million calls, for real; takes many minutes."""
    install(session, "tests")
    session.run("python", "-m", "tests.receivers.install")
    env = {"RESILIENT_ENDURANCE": os.environ.get("RESILIENT_ENDURANCE", "10000000")}
    session.run("pytest", "-m", "load", *(session.posargs or ["tests/load", "tests/integration"]), env=env)

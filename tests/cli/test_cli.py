"""The command as a user types it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

import resilient
from resilient.cli import main

COMMAND = [sys.executable, "-m", "resilient"]
PROGRAM_THAT_TELLS_WHEN_IT_RUNS = """
import sys
from resilient.cli import main
from resilient.demo import run

class Upstream(run.Upstream):
    async def follow_script(self):
        print("running", file=sys.stderr, flush=True)
        await super().follow_script()

run.Upstream = Upstream
sys.exit(main(sys.argv[1:]))
"""
SETTINGS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONUNBUFFERED")
# Seconds that a busy machine may need to start a program.
PATIENCE = 60.0
HOME = Path(resilient.__file__).parent.parent


def environment(**changes: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**plain, "PYTHONPATH": str(HOME), "PYTHONWARNINGS": "error", **changes}


def call(*args: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args], capture_output=True, text=True, timeout=timeout, env=environment(), check=False
    )


def in_terminal(*args: str, before: tuple[str, ...] = tuple(COMMAND), **changes: str) -> tuple[int, str]:
    """Run a command with a terminal of 80 columns for its output; its exit code, and what it wrote."""
    ours, theirs = pty.openpty()
    env = environment(TERM="xterm-256color", COLUMNS="80", LINES="24", PYTHONIOENCODING="utf-8", **changes)
    with subprocess.Popen([*before, *args], stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=env) as process:
        os.close(theirs)
        written = _read_all(ours)
        return process.wait(PATIENCE), written


def _read_all(terminal: int) -> str:
    chunks = []
    try:
        while select.select([terminal], [], [], PATIENCE)[0]:
            chunk = os.read(terminal, 65536)
            if not chunk:
                break
            chunks.append(chunk)
    except OSError:
        pass  # on Linux this is how a terminal ends whose other side is closed
    finally:
        os.close(terminal)
    return b"".join(chunks).decode()


def test_without_a_command_it_prints_a_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert "demo" in out
    assert len(out.splitlines()) <= 20
    assert err == ""


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"resilient {resilient.__version__}\n"


@pytest.mark.parametrize(
    "args, told",
    [
        (["demo", "--seconds", "0"], "--seconds: '0' is not a number of seconds from 1 to 3600"),
        (["demo", "--seconds", "-3"], "--seconds: '-3' is not"),
        (["demo", "--seconds", "abc"], "--seconds: 'abc' is not"),
        (["demo", "--seconds", "nan"], "--seconds: 'nan' is not"),
        (["demo", "--seconds", "inf"], "--seconds: 'inf' is not"),
        (["demo", "--seconds"], "--seconds: expected one argument"),
        (["demo", "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["demo", "--second", "3"], "unknown argument '--second'"),
        (["demo", "more"], "unknown argument 'more'"),
        (["demo", "--plain", "--json"], "not allowed with"),
        (["demos"], "invalid choice: 'demos' (choose from"),
        (["rules", "--output"], "--output: expected one argument"),
        (["rules", "more"], "unknown argument 'more'"),
        (["dashboard", "--out", "here"], "unknown argument '--out'"),
        (["--bogus"], "unknown argument '--bogus'"),
    ],
)
def test_a_wrong_argument_gives_one_line_and_exit_2(
    args: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)

    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert told in err
    assert len(err.splitlines()) == 1
    assert "--help)" in err


@pytest.mark.parametrize("command, first", [("rules", "# Made by `resilient rules`.\n"), ("dashboard", "{\n")])
def test_rules_and_dashboard_go_to_the_output_or_to_a_file(
    command: str, first: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([command]) == 0
    printed = capsys.readouterr()
    file = tmp_path / "made"
    file.write_text("something older, and longer" * 9999)
    assert main([command, "--output", str(file)]) == 0

    assert capsys.readouterr() == ("", "")
    assert printed.err == ""
    assert printed.out.startswith(first)
    assert file.read_text(encoding="utf-8") == printed.out


def test_the_rules_and_the_dashboard_are_those_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from resilient.telemetry.dashboard import grafana_dashboard
    from resilient.telemetry.rules import prometheus_rules

    main(["rules"])
    assert capsys.readouterr().out == prometheus_rules()
    main(["dashboard"])
    assert capsys.readouterr().out == grafana_dashboard()


@pytest.mark.parametrize("command", ["rules", "dashboard"])
@pytest.mark.parametrize(
    "place, reason",
    [
        ("no/such/folder/made", "No such file or directory"),
        ("", "Is a directory"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_a_file_that_can_not_be_written_gives_one_line_and_exit_1(
    command: str, place: str, reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = f"{tmp_path}/{place}"
    with pytest.raises(SystemExit) as ended:
        main([command, "--output", file])

    assert ended.value.code == 1
    assert capsys.readouterr() == ("", f"resilient {command}: can't write {file!r}: {reason}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", ["rules", "dashboard"])
def test_a_full_disk_gives_one_line_and_exit_1(command: str) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*COMMAND, command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            env=environment(),
            check=False,
        )

    assert (ended.returncode, ended.stderr) == (
        1,
        f"resilient {command}: can't write the output: No space left on device\n",
    )


def test_rules_are_printed_without_the_libraries_of_exporters_and_of_yaml() -> None:
    check = (
        "import sys, resilient.cli; resilient.cli.main(['rules']); resilient.cli.main(['dashboard']); "
        "sys.exit(bool({'yaml', 'prometheus_client', 'opentelemetry', 'asyncio'} & set(sys.modules)))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", check], env=environment(), stdout=subprocess.DEVNULL, check=False, timeout=PATIENCE
    )
    assert ended.returncode == 0


def test_importing_the_command_loads_neither_asyncio_nor_rich() -> None:
    check = "import sys, resilient.cli; sys.exit(bool({'asyncio', 'rich'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", check], env=environment(), check=False).returncode == 0


@pytest.mark.realtime
def test_in_a_pipe_it_writes_calm_lines_without_escape_codes_and_ends_in_time() -> None:
    began = time.monotonic()
    ended = call("demo", "--seconds", "2", "--seed", "1", "--plain")

    assert ended.returncode == 0
    assert ended.stderr == ""
    assert time.monotonic() - began < 2.0 + 8.0
    assert "\x1b" not in ended.stdout
    seconds = [line for line in ended.stdout.splitlines() if re.match(r" +\d+ [a-z]+ +(closed|open|half-open) ", line)]
    assert len(seconds) == 2
    assert {len(line) for line in seconds} == {80}
    for told in (
        "errors seen by users",
        "time wasted waiting",
        "calls that hit the dead upstream",
        "With the policies",
    ):
        assert told in ended.stdout


@pytest.mark.realtime
def test_a_pipe_needs_no_option_to_be_plain() -> None:
    ended = call("demo", "--seconds", "1")

    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout


@pytest.mark.realtime
def test_json_is_one_document_and_nothing_else() -> None:
    ended = call("demo", "--seconds", "2", "--json")

    made = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert made["interrupted"] is False
    assert {"pipeline", "timeout", "retry", "circuit_breaker", "failover"} <= set(made["policies"])
    for side in ("guarded", "unguarded"):
        numbers: Mapping[str, object] = made[side]
        ends = "answered", "from_memory", "default", "unfinished"
        assert numbers["users"] == sum(made[side][end] for end in ends) + made[side]["errors"]["total"]
        assert made[side]["attempts_at_dead_upstream"] > 0


@pytest.mark.realtime
@pytest.mark.parametrize("form", ["--plain", "--json"])
def test_ctrl_c_ends_it_well_with_the_summary(form: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM_THAT_TELLS_WHEN_IT_RUNS, "demo", "--seconds", "60", form],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0
    assert err == ""
    if form == "--json":
        assert json.loads(out)["interrupted"] is True
    else:
        assert "Summary (ended by hand after" in out


@pytest.mark.realtime
@pytest.mark.parametrize(
    "args",
    [
        ("demo", "--seconds", "30", "--plain"),
        ("demo", "--seconds", "1", "--json"),
        ("--help",),
        ("rules",),
        ("dashboard",),
    ],
)
def test_a_closed_pipe_ends_it_without_a_traceback(args: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [*COMMAND, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if "--plain" in args:
            assert "Two clients" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr.read() == ""


@pytest.mark.realtime
def test_in_a_terminal_it_draws_and_gives_the_cursor_back() -> None:
    code, written = in_terminal("demo", "--seconds", "1.5")

    assert code == 0
    assert "\x1b[32m" in written
    assert "█" in written
    assert "Summary" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


@pytest.mark.realtime
def test_no_color_takes_the_colours_out_of_the_picture() -> None:
    code, written = in_terminal("demo", "--seconds", "1", NO_COLOR="1")

    assert code == 0
    assert "█" in written
    assert not re.search(r"\x1b\[[\d;]*(3[0-7]|38;|9[0-7])[\d;]*m", written)


@pytest.mark.realtime
def test_plain_in_a_terminal_has_no_escape_codes() -> None:
    code, written = in_terminal("demo", "--seconds", "1", "--plain")

    assert code == 0
    assert "\x1b" not in written


@pytest.mark.realtime
@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_that_can_not_draw_gets_plain_lines(changes: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    env = environment(**{"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **changes})
    with subprocess.Popen([*COMMAND, "demo", "--seconds", "1"], stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        written = _read_all(ours)

    assert process.returncode == 0
    assert written.isascii()
    assert "\x1b" not in written


@pytest.mark.realtime
def test_without_rich_a_terminal_gets_plain_lines_and_a_hint() -> None:
    program = "import sys; sys.modules['rich'] = None; from resilient.cli import main; sys.exit(main(sys.argv[1:]))"

    code, written = in_terminal("demo", "--seconds", "1", before=(sys.executable, "-c", program))

    assert code == 0
    assert "pip install 'resilient-py[cli]'" in written
    assert "\x1b" not in written
    assert "Summary" in written

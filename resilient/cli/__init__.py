"""The command `resilient`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from math import isfinite
from typing import NoReturn

CLOSED_PIPE = 141
INTERRUPTED = 130
LONGEST = 3600.0


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments; gives back the exit code."""
    try:
        try:
            return _run(argv)
        finally:
            # A pipe that nobody reads any more is to show here, where it can be caught, and not at exit.
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED


def _forget_output() -> None:
    # What is still buffered must not fail once more when the interpreter flushes it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        options.parser.error(f"unknown argument {unknown[0]!r}")
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "demo":
        from resilient.demo.command import demo

        return demo(
            seconds=options.seconds,
            seed=options.seed,
            plain=options.plain,
            as_json=options.json,
            prometheus=options.prometheus,
            otlp=options.otlp,
        )
    if options.command == "status":
        from resilient.cli.status import status

        token = options.token or os.environ.get("RESILIENT_TOKEN")
        return status(options.url, token=token, watch=options.watch, as_json=options.json)
    if options.command == "wait":
        from resilient.cli.wait import wait

        return wait(options.url, timeout=options.timeout, quiet=options.quiet)
    return _write(_text_of(options.command), options.output, options.parser)


def _text_of(command: str) -> str:
    if command == "rules":
        from resilient.telemetry.rules import prometheus_rules

        return prometheus_rules()
    from resilient.telemetry.dashboard import grafana_dashboard

    return grafana_dashboard()


def _write(text: str, file: str | None, parser: Parser) -> int:
    try:
        if file is None:
            print(text, end="", flush=True)
        else:
            with open(file, "w", encoding="utf-8", newline="\n") as output:
                output.write(text)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        if file is None:
            _forget_output()
        where = "the output" if file is None else repr(file)
        reason = error.strerror if isinstance(error, OSError) else error
        parser.exit(1, f"{parser.prog}: can't write {where}: {reason}\n")
    return 0


def _parser() -> Parser:
    import resilient

    parser = Parser(prog="resilient", description=resilient.__doc__, allow_abbrev=False)
    parser.set_defaults(parser=parser)
    parser.add_argument("--version", action="version", version=f"resilient {resilient.__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", parser_class=Parser)
    demo = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="watch real HTTP calls survive an outage",
        description=(
            "Start an HTTP server on this machine, take it through an outage, and call it with two clients side by "
            "side: one guarded by every policy of this package, one without. Ctrl-C ends it with the summary."
        ),
    )
    demo.set_defaults(parser=demo)
    demo.add_argument("--seconds", type=_seconds, default=30.0, metavar="S", help="how long it runs (default: 30)")
    demo.add_argument("--seed", type=_seed, default=1, metavar="N", help="makes a run repeatable (default: 1)")
    form = demo.add_mutually_exclusive_group()
    form.add_argument("--plain", action="store_true", help="a line a second, without terminal control")
    form.add_argument("--json", action="store_true", help="nothing but one JSON document at the end")
    demo.add_argument("--prometheus", type=_port, metavar="PORT", help="serve the guarded client's metrics there")
    demo.add_argument("--otlp", metavar="URL", help="export its metrics and traces there, over gRPC")
    _add_printer(
        commands,
        "rules",
        "print recording and alerting rules for Prometheus",
        "Print a rule file for Prometheus: recording rules, and alerts for open and flapping circuit breakers, retry "
        "storms, failures, full bulkheads, fallbacks that serve, and telemetry that overflows.",
    )
    _add_printer(
        commands,
        "dashboard",
        "print a dashboard for Grafana",
        "Print a dashboard as JSON, to be imported into Grafana 10.1 or later, over a Prometheus data source.",
    )
    status = commands.add_parser(
        "status",
        allow_abbrev=False,
        help="show what a service says of itself",
        description=(
            "Show the overview of a service that mounts resilient's health app: checks, circuit breakers, bulkheads, "
            "levels. Ends with 0, with 1 where it is unhealthy, with 3 where there is nothing to show."
        ),
    )
    status.set_defaults(parser=status)
    status.add_argument("url", type=_url, metavar="URL", help="where the health app is mounted")
    status.add_argument("--token", help="to see details; default: RESILIENT_TOKEN of the environment")
    status.add_argument("--json", action="store_true", help="the overview as it came")
    status.add_argument(
        "--watch", type=_interval, nargs="?", const=2.0, metavar="S", help="again every S seconds (2), until Ctrl-C"
    )
    wait = commands.add_parser(
        "wait",
        allow_abbrev=False,
        help="wait until what a service needs is there",
        description=(
            "Wait until tcp://host:port takes connections and http://... answers with success, all of them. Ends with "
            "0, or with 1 and what is missing."
        ),
    )
    wait.set_defaults(parser=wait)
    wait.add_argument("url", nargs="+", metavar="URL", help="tcp://host:port, http://... or https://...")
    wait.add_argument("--timeout", type=_interval, default=60.0, metavar="S", help="for all together (default: 60)")
    wait.add_argument("--quiet", action="store_true", help="say nothing but what is missing")
    return parser


def _add_printer(commands: argparse._SubParsersAction[Parser], name: str, told: str, description: str) -> None:
    command = commands.add_parser(name, allow_abbrev=False, help=told, description=description)
    command.set_defaults(parser=command)
    command.add_argument("--output", metavar="FILE", help="write it there; what is in the file is replaced")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not isfinite(seconds) or not 1.0 <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to {LONGEST:g}")
    return seconds


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not isfinite(seconds) or not 0.0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0 and at most {LONGEST:g}")
    return seconds


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 65535")


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no http:// or https:// URL")
    return text


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None

"""`resilient status URL`: the overview of a service as a table, once or again and again."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from resilient.cli.overview import Tone, headline, lines, tone_of

if TYPE_CHECKING:
    from rich.table import Table

HEALTHY: Final = 0
UNHEALTHY: Final = 1
UNREACHABLE: Final = 3

_TIMEOUT: Final = 5.0
_LARGEST: Final = 1 << 20
_STYLES: Final[dict[Tone, str]] = {"good": "green", "warn": "yellow", "bad": "bold red", "calm": ""}


class Unreachable(Exception):
    """There is no overview to show; says why."""


def status(url: str, *, token: str | None, watch: float | None, as_json: bool) -> int:
    """Show it, and with `watch` again every so many seconds until Ctrl-C; gives back the exit code."""
    if watch is None:
        return _once(url, token, as_json)
    if not (sys.stdout.isatty() and _rich_is_here()):
        while True:
            _once(url, token, as_json)
            print(flush=True)
            time.sleep(watch)
    return _live(url, token, watch)


def fetch(url: str, token: str | None) -> dict[str, Any]:
    """The overview; an unhealthy service answers 503 with one, too."""
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    if token:
        # Not kept where the service sends us elsewhere.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        try:
            answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise Unreachable(f"{url} answered {error.code} {error.reason}") from None
            answer = error
        with answer:
            shown = json.loads(answer.read(_LARGEST))
    except (OSError, ValueError) as error:
        raise Unreachable(f"can't read {url}: {getattr(error, 'reason', None) or error}") from None
    if not isinstance(shown, dict) or "status" not in shown:
        raise Unreachable(f"{url} shows no overview: is the health app mounted there?")
    return shown


def _once(url: str, token: str | None, as_json: bool) -> int:
    try:
        shown = fetch(url, token)
    except Unreachable as error:
        print(f"resilient status: {error}", file=sys.stderr)
        return UNREACHABLE
    if as_json:
        print(json.dumps(shown, indent=2))
    elif _rich_is_here() and sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(_table(shown))
    else:
        print(text(shown))
    return UNHEALTHY if shown["status"] == "unhealthy" else HEALTHY


def text(shown: Mapping[str, Any]) -> str:
    """The table without colours, aligned."""
    rows, group = [headline(shown)], ""
    rows += [f"  {reason}" for reason in _reasons(shown)]
    every = lines(shown)
    width = max((len(line.name) for line in every), default=0)
    states = max((len(line.state) for line in every), default=0)
    for line in every:
        if line.group != group:
            group = line.group
            rows += ["", group]
        rows.append(f"  {line.name:<{width}}  {line.state:<{states}}  {line.details}".rstrip())
    return "\n".join(rows)


def _table(shown: Mapping[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    style = _STYLES[tone_of(str(shown.get("status")))]
    title = "\n".join([headline(shown), *_reasons(shown)])
    table = Table(title=escape(title), title_style=style, title_justify="left", show_header=False, box=None)
    group = ""
    for line in lines(shown):
        first = line.group if line.group != group else ""
        group = line.group
        state = f"[{_STYLES[line.tone]}]{escape(line.state)}[/]" if _STYLES[line.tone] else escape(line.state)
        table.add_row(f"[dim]{first}[/]", escape(line.name), state, escape(line.details))
    return table


def _reasons(shown: Mapping[str, Any]) -> list[str]:
    reasons = shown.get("reasons")
    return [str(reason) for reason in reasons] if isinstance(reasons, list) else []


def _live(url: str, token: str | None, watch: float) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            try:
                live.update(_table(fetch(url, token)), refresh=True)
            except Unreachable as error:
                live.update(Text(str(error), style=_STYLES["bad"]), refresh=True)
            time.sleep(watch)


def _rich_is_here() -> bool:
    from importlib.util import find_spec

    return find_spec("rich") is not None and os.environ.get("TERM") not in ("dumb", "unknown")

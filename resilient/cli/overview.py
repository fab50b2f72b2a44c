"""What a service shows of itself, as lines of a table. Data in, lines out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["good", "warn", "bad", "calm"]

_TONES: dict[str, Tone] = {
    "healthy": "good",
    "closed": "good",
    "normal": "good",
    "degraded": "warn",
    "half_open": "warn",
    "disabled": "warn",
    "unhealthy": "bad",
    "open": "bad",
    "forced_open": "bad",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what it belongs to (said once), of whom, how it is, and what there is to say."""

    group: str
    name: str
    state: str
    tone: Tone
    details: str = ""


def headline(shown: Mapping[str, Any]) -> str:
    """Who it is and how it is."""
    who = " ".join(str(shown[key]) for key in ("service", "version") if shown.get(key))
    return f"{who or 'service'}: {shown.get('status', 'unknown')}"


def lines(shown: Mapping[str, Any]) -> list[Line]:
    """All that the overview tells; strangers are told less than those with a token."""
    return [*_checks(shown), *_breakers(shown), *_bulkheads(shown), *_levels(shown), *_system(shown)]


def tone_of(state: str) -> Tone:
    return _TONES.get(state, "calm")


def _checks(shown: Mapping[str, Any]) -> Iterator[Line]:
    for name, check in _items(shown, "checks"):
        state = str(check.get("status", "unknown"))
        took = check.get("response_time_ms")
        said = [f"{took:g} ms" if isinstance(took, (int, float)) else "", str(check.get("error") or "")]
        yield Line("checks", name, state, tone_of(state), "  ".join(part for part in said if part))


def _breakers(shown: Mapping[str, Any]) -> Iterator[Line]:
    for name, state in _items(shown, "circuit_breakers"):
        yield Line("circuit breakers", name, str(state), tone_of(str(state)))


def _bulkheads(shown: Mapping[str, Any]) -> Iterator[Line]:
    for name, room in _items(shown, "bulkheads"):
        used, limit = room.get("in_flight", 0), room.get("limit", 0)
        waiting, places, refused = room.get("queued", 0), room.get("max_queue", 0), room.get("rejected", 0)
        queue = f", {waiting} of {places} places in the queue taken" if places else ""
        tone: Tone = "warn" if limit and used >= limit else "good"
        yield Line("bulkheads", name, f"{used} of {limit}", tone, f"{refused} refused{queue}")


def _levels(shown: Mapping[str, Any]) -> Iterator[Line]:
    for name, level in _items(shown, "degradation"):
        yield Line("degradation", name, str(level), "good" if level == "normal" else "warn")


def _system(shown: Mapping[str, Any]) -> Iterator[Line]:
    system = shown.get("system")
    if not isinstance(system, Mapping):
        return
    memory, cpu, threads = system.get("memory_bytes"), system.get("cpu_seconds"), system.get("threads")
    if memory is not None:
        yield Line("system", "memory", f"{memory / 1e6:,.0f} MB", "calm")
    if cpu is not None:
        yield Line("system", "CPU time", duration(cpu), "calm", f"{system.get('cpu_count') or '?'} cores")
    if threads is not None:
        yield Line("system", "threads", str(threads), "calm")
    if system.get("uptime_seconds") is not None:
        yield Line("system", "up for", duration(system["uptime_seconds"]), "calm")


def _items(shown: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    found = shown.get(key)
    return sorted(found.items()) if isinstance(found, Mapping) else []


def duration(seconds: float) -> str:
    """Two units are enough: 3 d 4 h, 2 min 5 s, 0.4 s."""
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // smaller} {small_unit}"
    return f"{seconds:.1f} s"

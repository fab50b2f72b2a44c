"""Numbers as people read them."""

from __future__ import annotations


def count(value: int) -> str:
    return f"{value:,}"


def optional_count(value: int | None) -> str:
    return "" if value is None else count(value)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}".replace("%", " %")


def duration(seconds: float | None) -> str:
    """Milliseconds below a second, seconds above."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:,.0f} s"


def plural(number: int, one: str, many: str) -> str:
    return f"{count(number)} {one if number == 1 else many}"

"""The features of a degradation: at which level each goes off, and who has switched it by hand."""

from __future__ import annotations

from typing import Final

_SHOWN: Final = {None: "automatic", True: "on", False: "off"}


class _Feature:
    __slots__ = ("off_at", "switch")

    def __init__(self, off_at: int) -> None:
        self.off_at = off_at
        self.switch: bool | None = None


class Features:
    """Whoever owns it has a lock for all that changes it.

    Attributes:
        active: whether each is on; replaced as a whole, so that it is read without the lock.
    """

    __slots__ = ("_known", "active")

    def __init__(self) -> None:
        self._known: dict[str, _Feature] = {}
        self.active: dict[str, bool] = {}

    def declare(self, name: str, off_at: int, level: int) -> int:
        """Where the feature is known already, the level at which it goes off stays: it is handed back."""
        feature = self._known.setdefault(name, _Feature(off_at))
        self.follow(level)
        return feature.off_at

    def switch(self, name: str, on: bool | None, level: int) -> dict[str, object] | None:
        """Switch it by hand; hands back what there is to tell, if anything."""
        feature = self._known[name]
        if feature.switch is on:
            return None
        feature.switch = on
        self.follow(level)
        return {"feature": name, "switch": _SHOWN[on]}

    def follow(self, level: int) -> None:
        self.active = {
            name: level < feature.off_at if feature.switch is None else feature.switch
            for name, feature in self._known.items()
        }

    def snapshot(self, levels: tuple[str, ...]) -> dict[str, object]:
        return {
            name: {
                "active": active,
                "off_at": levels[self._known[name].off_at],
                "switch": _SHOWN[self._known[name].switch],
            }
            for name, active in self.active.items()
        }

"""Is there a global interpreter lock? Decided once, when the package is imported."""

from __future__ import annotations

import sys
from typing import Final

GIL: Final[bool] = bool(getattr(sys, "_is_gil_enabled", lambda: True)())

"""`python -m resilient`."""

from __future__ import annotations

import sys

from resilient.cli import main

if __name__ == "__main__":
    sys.exit(main())

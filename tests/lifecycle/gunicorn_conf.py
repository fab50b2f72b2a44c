"""What docs/lifecycle.md recommends for gunicorn, with and without --preload."""

from __future__ import annotations

from typing import Any

from resilient import lifecycle


def post_worker_init(worker: Any) -> None:
    lifecycle.install()


def worker_exit(server: Any, worker: Any) -> None:
    lifecycle.stop()

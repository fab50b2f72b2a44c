"""Security headers: added, and never in the place of the application's."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import ConfigurationError
from tests.middleware.kit import Twin

PLAIN = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def test_every_answer_has_them(twin: Twin) -> None:
    assert twin.ask(twin.module.SecurityHeaders(twin.app())).headers == PLAIN


def test_only_https_is_to_be_kept_to(twin: Twin) -> None:
    reply = twin.ask(twin.module.SecurityHeaders(twin.app()), scheme="https")
    assert reply.headers == {**PLAIN, "strict-transport-security": "max-age=31536000"}


def test_what_the_application_sets_stays(twin: Twin) -> None:
    app = twin.module.SecurityHeaders(twin.app(headers=[("CONTENT-security-policy", "default-src 'self'")]))
    assert twin.ask(app).headers == {**PLAIN, "content-security-policy": "default-src 'self'"}


def test_others_can_be_given_and_ours_left_out(twin: Twin) -> None:
    headers = {"content-security-policy": "default-src 'self'", "X-Frame-Options": None, "Permissions-Policy": "usb=()"}
    reply = twin.ask(twin.module.SecurityHeaders(twin.app(), headers=headers))
    expected = {**PLAIN, "content-security-policy": "default-src 'self'", "permissions-policy": "usb=()"}
    del expected["x-frame-options"]
    assert reply.headers == expected


@pytest.mark.parametrize("headers", [{"a b": "1"}, {"": "1"}, {"a": "1\r\nb: 2"}, {"a": ""}, {"a": 1}, {1: "a"}])
def test_what_is_no_header_is_refused(twin: Twin, headers: Any) -> None:
    with pytest.raises(ConfigurationError, match="SecurityHeaders"):
        twin.module.SecurityHeaders(twin.app(), headers=headers)

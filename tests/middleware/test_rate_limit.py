"""The rate limit of clients."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import ConfigurationError, RateLimitedError, RateLimiter, Registry, registry
from resilient.middleware.clients import Clients
from resilient.testing import fake_clock
from tests.middleware.kit import Twin


def test_each_client_has_a_limit_of_its_own(twin: Twin) -> None:
    with fake_clock() as clock:
        app = twin.module.RequestId(twin.module.RateLimit(twin.app(), limit=2, period=60))
        statuses = [twin.ask(app, client=client).status for client in ["192.0.2.1"] * 3 + ["192.0.2.2"] * 2]
        assert statuses == [200, 200, 429, 200, 200]
        refused = twin.ask(app, headers=[("X-Request-ID", "r-17")])
        assert refused.headers["retry-after"] == "30"
        assert refused.json() == {"status": 429, "error": "rate_limited", "retry_after": 30, "request_id": "r-17"}
        clock.advance(29.9)
        assert twin.ask(app).headers["retry-after"] == "1"
        clock.advance(0.1)
        assert twin.ask(app).status == 200


def test_what_is_refused_does_not_reach_the_application(twin: Twin) -> None:
    begun: list[None] = []
    app = twin.module.RateLimit(twin.app(lambda: begun.append(None)), limit=1, period=60)
    for _ in range(3):
        twin.ask(app)
    assert len(begun) == 1


def test_a_refusal_by_the_application_is_its_own(twin: Twin) -> None:
    def fail() -> None:
        raise RateLimitedError("of another limiter", retry_after=5)

    with pytest.raises(RateLimitedError, match="of another"):
        twin.ask(twin.module.RateLimit(twin.app(fail), limit=1))


def test_the_key_can_be_made_of_anything_and_none_is_no_client(twin: Twin) -> None:
    paths: dict[str, str] = {"asgi": "path", "wsgi": "PATH_INFO"}

    def key(request: Any) -> str | None:
        path = request[paths[twin.name[:4]]]
        return None if path == "/live" else path

    app = twin.module.RateLimit(twin.app(), limit=1, period=60, key=key)
    assert [twin.ask(app, path=path).status for path in ("/a", "/b", "/a", "/live", "/live")] == [
        200,
        200,
        429,
        200,
        200,
    ]


def test_so_many_clients_are_remembered(twin: Twin) -> None:
    app = twin.module.RateLimit(twin.app(), limit=1, period=60, max_keys=2)
    statuses = [twin.ask(app, client=f"192.0.2.{last}").status for last in (1, 2, 1, 3, 2)]
    assert statuses == [200, 200, 429, 200, 200]


def test_it_is_in_the_registry(twin: Twin) -> None:
    app = twin.module.RateLimit(twin.app(), limit=1, period=60)
    twin.ask(app)
    twin.ask(app)
    limiter = registry.find(RateLimiter, "http_clients")
    assert limiter is not None
    assert limiter.snapshot()["rejected"] == 1
    assert limiter.snapshot()["keys"] == {"192.0.2.1": {"available": 0}}


def test_without_a_name_each_application_has_limits_of_its_own_with_one_they_share_them(twin: Twin) -> None:
    private = Registry()
    own = [twin.module.RateLimit(twin.app(), limit=limit, period=60, registry=private) for limit in (1, 2)]
    assert [twin.ask(app).status for app in (own[0], own[1], own[1])] == [200, 200, 200]
    shared = [twin.module.RateLimit(twin.app(), limit=1, period=60, name="both", registry=private) for _ in range(2)]
    assert [twin.ask(app).status for app in shared] == [200, 429]
    with pytest.raises(ConfigurationError, match="both"):
        twin.module.RateLimit(twin.app(), limit=2, name="both", registry=private)


def test_the_header_of_a_stranger_is_not_believed(twin: Twin) -> None:
    app = twin.module.RateLimit(twin.app(), limit=1, period=60)
    assert [twin.ask(app, headers=[("X-Forwarded-For", f"10.0.0.{n}")]).status for n in range(2)] == [200, 429]


def test_behind_a_trusted_proxy_the_client_is_whom_the_proxy_saw(twin: Twin) -> None:
    app = twin.module.RateLimit(twin.app(), limit=1, period=60, trusted_proxies=["192.0.2.0/24"])

    def ask(*forwarded: str) -> int:
        return twin.ask(app, headers=[("X-Forwarded-For", value) for value in forwarded]).status

    assert [ask("198.51.100.1"), ask("198.51.100.2"), ask("198.51.100.1")] == [200, 200, 429]
    assert ask("203.0.113.9, 198.51.100.1") == 429, "what a client has written itself stands before that"
    assert ask("203.0.113.9", "198.51.100.1") == 429
    assert ask("198.51.100.1, 192.0.2.7") == 429, "a second proxy of ours"


@pytest.mark.parametrize(
    "peer, forwarded, key",
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("::ffff:192.0.2.1", None, "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
        ("", None, ""),
        ("testclient", None, "testclient"),
        ("", "198.51.100.1", "198.51.100.1"),
        ("testclient", "198.51.100.1", "testclient"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::/64"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::/64"),
        ("10.0.0.1", "203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.9," + "10.0.0.2," * 20 + "10.0.0.3", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", " , ", "10.0.0.1"),
        ("10.0.0.1", "[", "10.0.0.1"),
    ],
)
def test_who_the_client_is(peer: str, forwarded: str | None, key: str) -> None:
    assert Clients("test", ["10.0.0.0/8", "unix"]).key(peer, forwarded) == key


def test_a_peer_without_an_address_is_not_believed_unless_said_so() -> None:
    assert Clients("test", ["10.0.0.0/8"]).key("", "198.51.100.1") == ""


def test_a_server_that_knows_no_client_limits_all_as_one(twin: Twin) -> None:
    app = twin.module.RateLimit(twin.app(), limit=1, period=60)
    assert [twin.ask(app, client=None).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    "settings",
    [
        {"limit": 0},
        {"limit": 1, "period": 0},
        {"limit": 1, "key": "address"},
        {"limit": 1, "max_keys": 0},
        {"limit": 1, "trusted_proxies": ["proxy.example"]},
        {"limit": 1, "trusted_proxies": ["10.0.0.1/8"]},
        {"limit": 1, "trusted_proxies": [5]},
    ],
)
def test_wrong_settings_are_refused(twin: Twin, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        twin.module.RateLimit(twin.app(), **settings)


def test_one_proxy_by_itself_is_no_list_of_them(twin: Twin) -> None:
    with pytest.raises(ConfigurationError, match=r"trusted_proxies='10\.0\.0\.0/8' is not"):
        twin.module.RateLimit(twin.app(), limit=1, trusted_proxies="10.0.0.0/8")

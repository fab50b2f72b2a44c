"""One service in every framework, for test_frameworks.py."""

from __future__ import annotations

import os
from typing import Any

from resilient import Registry, circuit_breaker
from resilient.health import Health

TOKEN = "open-sesame"


def service() -> Health:
    private = Registry()
    circuit_breaker("payments", registry=private)
    health = Health(service="shop", version="1.4.2", token={"oncall": TOKEN}, admin=True, registry=private)
    runs = {"sync": 0, "async": 0}

    @health.check("sync", ttl=60.0)
    def count() -> dict[str, int]:
        runs["sync"] += 1
        return {"runs": runs["sync"], "process": os.getpid()}

    @health.check("async", ttl=60.0)
    async def count_async() -> dict[str, int]:
        runs["async"] += 1
        return {"runs": runs["async"]}

    @health.check("broken", critical=False)
    def broken() -> None:
        raise ConnectionError("postgres://app:hunter2@db refused")

    return health


def fastapi_app() -> Any:
    from fastapi import FastAPI

    app = FastAPI()
    app.mount("/health", service().asgi())

    @app.get("/")
    async def index() -> str:
        return "the service itself"

    return app


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def index(request: Any) -> Any:
        return PlainTextResponse("the service itself")

    return Starlette(routes=[Route("/", index), Mount("/health", service().asgi())])


def flask_app() -> Any:
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = Flask("shop")
    app.add_url_rule("/", view_func=lambda: "the service itself")
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/health": service().wsgi()})  # type: ignore[method-assign]
    return app


def django_app() -> Any:
    import django
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpResponse
    from django.urls import path

    def index(request: Any) -> Any:
        return HttpResponse("the service itself")

    settings.configure(ROOT_URLCONF=(path("", index),), ALLOWED_HOSTS=["*"], SECRET_KEY="tests", USE_TZ=True)
    django.setup()
    return service().wsgi(WSGIHandler(), prefix="/health")


def aiohttp_app(arguments: list[str]) -> Any:
    from aiohttp import web

    from resilient.health.aiohttp_routes import add_routes

    async def index(request: web.Request) -> web.Response:
        return web.Response(text="the service itself")

    app = web.Application()
    app.router.add_get("/", index)
    add_routes(app, service(), prefix="/health")
    return app

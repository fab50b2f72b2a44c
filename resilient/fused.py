"""One function for a whole pipeline: what happens to a call that goes well, in a straight line.

Each policy may give the source of what it does around a first attempt that succeeds (`Fragment`). Here the fragments
are put into each other and compiled, so that such a call runs in one frame. All else is out of line, in the chain of
closures that every policy makes as well: later attempts, rejections, waits.

The text depends only on the kinds of the policies and on some of their settings, so it is compiled once for each shape.
Tracebacks show it.
"""

from __future__ import annotations

import linecache
import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from textwrap import indent
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final, cast

from resilient.core.clock import CLOCK
from resilient.core.tracing import TRACING
from resilient.decorate import guard_async_generator, guard_generator, refuse_coroutine
from resilient.drivers.safe_points import GENERATED
from resilient.operation import BYPASS, Call, Misuse, Operation, Served
from resilient.traced import await_traced, call_traced


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one policy does around a call, as source.

    In it stands `$call`, alone in its line, for what is inside of the policy; that leaves what it gives in `result`.
    `$await` is for what has to be awaited in a coroutine, `$started` the instant at which the policy's turn came,
    `$args` and `$kwargs` the arguments of the call. Every other `$name` is a variable of this policy's own, or one of
    `names`. Without a `$` stand `operation`, `CLOCK` and the `constants`, which are the same in all policies.

    A policy that may wait before the call `waits`, and says in `$begun` when it let the call in. One that hands the
    arguments to something else than the guarded function `shows_arguments`: they come as the caller wrote them then.

    `door` comes first where the policy is the outermost one. It may refuse the call, which it has to count: what it
    raises is seen by nobody but the caller.
    """

    source: str
    names: Mapping[str, object] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    door: str = ""
    waits: bool = False
    shows_arguments: bool = False


_GUARD: Final = """\
def make($parameters):
    bypassed = False

    def bypass(active):
        nonlocal bypassed
        bypassed = active

    $async def guarded($signature):
        if (
            "opentelemetry.trace" in modules
            and TRACING.api._TRACER_PROVIDER is not None
            and (trace := TRACING.open(operation)) is not None
        ):
            return $await $traced(operation, trace, $args, $kwargs)
        meter.started += 1
        started = CLOCK.now()
        $door
        try:
            if bypassed:
                result = $await operation.call($args, $kwargs)
            else:
                $call
        except BaseException as error:
            elapsed = CLOCK.now() - started
            meter.raised(error, elapsed)
            if type(error) is Misuse:
                raise error.error from None
            raise
        elapsed = CLOCK.now() - started
        $served
        bucket = 0 if elapsed <= lowest else bisect_left(bounds, elapsed)
        counts[bucket] += 1
        success.sum += elapsed
        return result

    return guarded, bypass
"""
_SERVED: Final = """\
if type(result) is Served:
    fallback.observe(elapsed)
    return result.value"""
_CALL: Final = "result = $await function($handed)"
_CHECKED_CALL: Final = f"{_CALL}\nif type(result) is CoroutineType:\n    refuse_coroutine(function, result)"
_CALL_OF_CHAIN: Final = "result = $await inner($args, $kwargs)"
_PLACE: Final = re.compile(r"^( *)\$(call|door|served)$", re.MULTILINE)
_NAME: Final = re.compile(r"\$(\w+)")
_GIVEN: Final = frozenset({"call", "await", "args", "kwargs"})
_VARIADIC: Final = 0x04 | 0x08


def fuse(
    function: Callable[..., Any] | None, operation: Operation, chain: Sequence[Call], asynchronous: bool
) -> FunctionType:
    """The guarded function; `chain` are the calls from each policy of the operation inwards, and then the bare one.

    `function` is called in the place of the bare call; None: there is no such thing.
    """
    success = operation.meter.success
    names: dict[str, object] = {
        "operation": operation,
        "meter": operation.meter,
        "bounds": success.bounds,
        "lowest": success.bounds[0],
        "counts": success.counts,
        "success": success,
    }
    if operation.falls_back:
        names["fallback"] = operation.meter.expect_fallback()
    fragments: list[Fragment] = []
    for policy, own, inner in zip(operation.policies, chain, chain[1:], strict=False):
        fragment = policy.straight(operation, own, inner, asynchronous)
        if fragment is None:
            break
        fragments.append(fragment)
    # What is written in C has no frame of its own, and must be called from one that may be interrupted.
    arity: int | None = None
    if len(fragments) == len(operation.policies) and isinstance(function, FunctionType):
        names["function"] = function
        text = _CALL if asynchronous else _CHECKED_CALL
        code = function.__code__
        if not (code.co_flags & _VARIADIC or code.co_kwonlyargcount or any(f.shows_arguments for f in fragments)):
            arity = code.co_argcount
    else:
        text = _CALL_OF_CHAIN
        names["inner"] = chain[len(fragments)]
    text = _nested(text, fragments, names)
    constants = {name: value for fragment in fragments for name, value in fragment.constants.items()}
    places = {"call": text, "door": "", "served": _SERVED if operation.falls_back else ""}
    if fragments and fragments[0].door:
        places["door"] = _renamed(fragments[0].door.strip("\n"), 0, "started")
    source = _put_in(_GUARD, places).replace("$parameters", ", ".join(names))
    for name, value in (_arguments(arity) | (_ASYNCHRONOUS if asynchronous else _SYNCHRONOUS)).items():
        source = source.replace(name, value)
    kinds = ", ".join(policy.kind for policy in operation.policies)
    made: tuple[FunctionType, Callable[[bool], object]] = _maker(source, kinds, constants)(*names.values())
    guarded, operation.switch = made
    if arity:
        _take_signature(guarded, cast("FunctionType", function), arity)
    operation.bypass(BYPASS.active)
    return guarded


_SYNCHRONOUS: Final = {"$async ": "", "$await ": "", "$traced": "call_traced"}
_ASYNCHRONOUS: Final = {"$async ": "async ", "$await ": "await ", "$traced": "await_traced"}


def _arguments(arity: int | None) -> dict[str, str]:
    """How the arguments are taken and passed on. One by one where that can be: it spares a tuple and a dict."""
    if arity is None:
        # Without `kwargs` where there are none: Python would make a dict of them for the call.
        handed = {"function($handed)": "(function(*args, **kwargs) if kwargs else function(*args))"}
        return handed | {"$signature": "*args, **kwargs", "$args": "args", "$kwargs": "kwargs"}
    listed = ", ".join(f"argument_{index}" for index in range(arity))
    return {"$handed": listed, "$signature": listed, "$args": f"({listed}{',' * bool(arity)})", "$kwargs": "{}"}


def _take_signature(guarded: FunctionType, function: FunctionType, arity: int) -> None:
    """Give its parameters the names and the defaults of those of the function."""
    own, theirs = guarded.__code__, function.__code__
    names, positional = theirs.co_varnames[:arity], theirs.co_posonlyargcount
    key = own.co_filename, names, positional
    code = _RENAMED.get(key)
    if code is None:
        renamed = own.replace(co_varnames=names + own.co_varnames[arity:], co_posonlyargcount=positional)
        code = _RENAMED[key] = renamed
    guarded.__code__ = code
    guarded.__defaults__ = function.__defaults__


_RENAMED: Final[dict[tuple[str, tuple[str, ...], int], CodeType]] = {}


def _nested(text: str, fragments: Sequence[Fragment], names: dict[str, object]) -> str:
    """The fragments around `text`, each with its own variables; adds to `names` what they are bound to."""
    started = ["started"]
    for index, fragment in enumerate(fragments):
        started.append(f"begun_{index}" if fragment.waits else started[-1])
    for index in reversed(range(len(fragments))):
        fragment = fragments[index]
        own = _renamed(fragment.source.strip("\n"), index, started[index])
        text = _put_in(own, {"call": text})
        names |= {f"{name}_{index}": value for name, value in fragment.names.items()}
    return text


def _renamed(source: str, index: int, started: str) -> str:
    def rename(match: re.Match[str]) -> str:
        name = match[1]
        if name in _GIVEN:
            return match[0]
        return started if name == "started" else f"{name}_{index}"

    return _NAME.sub(rename, source)


def _put_in(source: str, places: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda match: indent(places[match[2]], match[1]), source)


_MAKERS: Final[dict[str, Callable[..., Any]]] = {}
# Never twice, also where threads compile at once: names of files tell the sources apart.
_NUMBERS: Final = count(1)
_CONSTANTS: Final[Mapping[str, object]] = {
    "__name__": __name__,
    "CLOCK": CLOCK,
    "CoroutineType": CoroutineType,
    "Misuse": Misuse,
    "Served": Served,
    "TRACING": TRACING,
    "await_traced": await_traced,
    "bisect_left": bisect_left,
    "call_traced": call_traced,
    "modules": sys.modules,
    "refuse_coroutine": refuse_coroutine,
}


def _maker(source: str, kinds: str, constants: Mapping[str, object]) -> Callable[..., Any]:
    make = _MAKERS.get(source)
    if make is None:
        filename = f"{GENERATED}{kinds}, {next(_NUMBERS)}>"
        module = {**_CONSTANTS, **constants}
        exec(compile(source, filename, "exec"), module)
        # Without a time of its last change it stays where it is, and is shown.
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        make = _MAKERS[source] = cast("Callable[..., Any]", module["make"])
    return make


_STEPPED: Final = frozenset(
    constant
    for maker in (guard_generator, guard_async_generator)
    for constant in maker.__code__.co_consts
    if isinstance(constant, CodeType) and constant.co_name == "guarded"
)


def _made_here(code: CodeType) -> bool:
    return code.co_filename.startswith(GENERATED) or code in _STEPPED


def is_guarded(function: object) -> bool:
    """Is this very function one of ours? Its attributes don't tell: `functools.wraps` of others copies them."""
    return type(function) is FunctionType and (_made_here(function.__code__))

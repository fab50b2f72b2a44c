"""A second copy of the package with some of its statements taken out, to see what they cost."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
Unwanted = Callable[[ast.stmt], bool]

PACKAGE = "resilient"


class _Remover(ast.NodeTransformer):
    def __init__(self, unwanted: Unwanted) -> None:
        self._unwanted = unwanted

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.stmt) and self._unwanted(node):
            return (node.orelse if isinstance(node, ast.If) else []) or ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        # Not by way of `source_to_code`, whose result would be kept in __pycache__ for others.
        code: CodeType = compile(self.get_source(fullname) or "", self.path, "exec", dont_inherit=True)
        return code


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if _is_ours(fullname) else None
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def without(unwanted: Unwanted, make: Callable[[], T]) -> T:
    """What `make` gives, which imports the package while it runs, and calls what it has made so that all is loaded.

    Statements are taken out of its modules, and of functions that it makes from text.
    """
    usual = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    finder, usual_compile = _Finder(), builtins.compile

    def compile_without(source: Any, filename: Any, mode: str, flags: int = 0, **_: Any) -> Any:
        if isinstance(source, str) and mode == "exec":
            # What is set by `from __future__` here is not meant for what is compiled.
            tree: Any = usual_compile(source, filename, mode, ast.PyCF_ONLY_AST, dont_inherit=True)
            source = ast.fix_missing_locations(_Remover(unwanted).visit(tree))
        return usual_compile(source, filename, mode, flags, dont_inherit=True)

    sys.meta_path.insert(0, finder)
    builtins.compile = compile_without  # type: ignore[assignment]
    try:
        return make()
    finally:
        builtins.compile = usual_compile
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(usual)


def mentions(node: ast.AST, value: str) -> bool:
    """Is this string somewhere in it?"""
    return any(isinstance(part, ast.Constant) and part.value == value for part in ast.walk(node))


def _is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")

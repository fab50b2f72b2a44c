"""Which small changes of the code the tests are held to: the operators of Cosmic Ray, and two of our own."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from parso.python.tree import Function, Keyword

EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")

# Cosmic Ray replaces an operator by every other one. Most of these die of a TypeError, or differ in more cases than the
# ones kept here: they would raise the score and tell nothing. Kept are the boundary, the opposite, and the inverse.
_KEPT: Final = (
    *(f"core/ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul",
        "RShift_LShift", "LShift_RShift", "BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitOr",
    )),
    *(f"core/ReplaceComparisonOperator_{pair}" for pair in (
        "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt",
        "Is_IsNot", "IsNot_Is",
    )),
    *(f"core/ReplaceUnaryOperator_{pair}" for pair in ("Delete_Not", "Delete_USub", "Delete_Invert")),
    *(f"core/{name}" for name in (
        "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
        "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer",
        "RemoveDecorator", "ZeroIterationForLoop",
    )),
)  # fmt: skip

# A `*` or a `|` of other parents marks an argument, unpacks, or joins types.
_ARITHMETIC: Final = {"arith_expr", "term", "shift_expr", "expr", "and_expr", "xor_expr", "power", "expr_stmt"}
# These say something to type checkers only.
_DECORATORS_OF_TYPES: Final = {"overload", "final", "override", "abstractmethod", "runtime_checkable"}
_TYPES: Final = {"TypeVar", "ParamSpec", "TypeAlias", "TypeVarTuple", "NewType"}


class StatementRemover(Operator):
    """Takes out a call, a `raise`, a `del`, an augmented assignment, or an assignment to an attribute or item.

    Without an assignment to a plain name the next line dies of a NameError, and without one in `__init__` of an
    AttributeError: they would only flatter the score.
    """

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "simple_stmt" and self._is_removable(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        first = node.children[0].get_first_leaf()
        node.children[0] = Keyword("pass", first.start_pos, first.prefix)
        return node

    @staticmethod
    def _is_removable(node: Any) -> bool:
        if node.type in {"atom_expr", "power"}:
            return node.children[-1].type == "trailer" and node.children[-1].children[0].value == "("
        if node.type in {"del_stmt", "raise_stmt"}:
            return True
        if node.type != "expr_stmt":
            return False
        if node.children[1].type == "annassign":
            return False
        function = _enclosing(node, Function)
        if node.children[1].type == "operator" and node.children[1].value == "=":
            to_name = node.children[0].type not in {"atom_expr", "power"}
            return not to_name and function is not None and function.name.value != "__init__"
        return True

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(x)", "pass"),)


class ReturnValueRemover(Operator):
    """`return x` becomes `return None`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "return_stmt" and node.children[1].get_code().strip() != "None":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = Keyword("None", node.children[1].start_pos, " ")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("return x", "return None"),)


_OPERATORS: Final[dict[str, Operator]] = {
    **{name.removeprefix("core/"): cosmic_ray.plugins.get_operator(name)() for name in _KEPT},
    "StatementRemover": StatementRemover(),
    "ReturnValueRemover": ReturnValueRemover(),
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file. `place` finds it again while the file is as it is, `change` when it has moved."""

    file: str
    operator: str
    occurrence: int
    line: int
    function: str
    lines: tuple[int, ...] | None
    """Lines one of which a test must reach to see the change; None: the change is made at import."""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.operator}:{self.occurrence}"

    def apply(self, source: str) -> str | None:
        """The changed source; None where that is no Python."""
        mutated = mutate_code(source, _OPERATORS[self.operator], self.occurrence)
        if mutated is None or mutated == source:
            return None
        try:
            compile(mutated, self.file, "exec")
        except (SyntaxError, ValueError):
            return None
        return str(mutated)


def find(file: str, source: str) -> list[Mutant]:
    """Every mutant of a file that counts, in the order of operators and lines."""
    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for name, operator in _OPERATORS.items():
        occurrence = 0
        for node in nodes:
            try:
                positions = list(operator.mutation_positions(node))
            except (AttributeError, IndexError):
                continue
            for start, _ in positions:
                if _counts(name, node):
                    line, function, lines = start[0], _qualname(node), _lines(node, start[0])
                    found.append(Mutant(file, name, occurrence, line, function, lines))
                occurrence += 1
    return found


def change(before: str, after: str) -> tuple[str, str]:
    """The lines taken out and those put in, stripped: what stays the same when the file moves."""
    diff = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    taken_out, put_in = (" ".join(line[2:].strip() for line in diff if line.startswith(sign)) for sign in "-+")
    return taken_out, put_in


def key_of(file: str, function: str, before: str, after: str) -> tuple[str, ...]:
    """What an equivalent mutant is found by; Cosmic Ray's blanks are not ours."""
    return file, function, "".join(before.split()), "".join(after.split())


def equivalents() -> dict[tuple[str, ...], str]:
    """The reasons why mutants are equivalent, by their `key_of`."""
    with EQUIVALENT.open("rb") as file:
        entries = tomllib.load(file).get("equivalent", [])
    return {
        key_of(entry["file"], function, entry["before"], after): entry["reason"]
        for entry in entries
        for function in _listed(entry["function"])
        for after in _listed(entry["after"])
    }


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _counts(operator: str, node: Any) -> bool:
    if operator.startswith("ReplaceBinaryOperator"):
        if node.parent.type not in _ARITHMETIC:
            return False
        left = node.get_previous_sibling()
        if node.value == "%" and left is not None and left.type in {"string", "strings", "fstring"}:
            return False
        if node.value == "|" and _enclosing(node, Function) is None:
            return False
    if operator == "AddNot" and _is_negated_by_others(node.children[2 if node.type == "test" else 1]):
        return False
    if operator == "RemoveDecorator" and _last_name(node.children[1]) in _DECORATORS_OF_TYPES:
        return False
    if operator == "ReturnValueRemover" and _last_name(node.children[1]) in {"True", "False"}:
        # Another operator turns it round, and to whoever asks "is it?" None is as good as False.
        return False
    below = node
    while (parent := below.parent) is not None:
        if _is_type_or_text(below, parent):
            return False
        below = parent
    return True


def _is_negated_by_others(condition: Any) -> bool:
    """Another operator makes the same of it: `not x` loses its `not`, `is` becomes `is not`, `<` becomes `>=`."""
    if condition.type in {"and_test", "or_test"}:
        condition = condition.children[0]
    if condition.type == "comparison" and len(condition.children) == 3:
        return condition.children[1].get_code().strip() not in {"in", "not in"}
    return bool(condition.type == "not_test")


def _is_type_or_text(node: Any, parent: Any) -> bool:
    """Annotations, type variables, code for type checkers only, and the text of messages."""
    if node.type.startswith("fstring"):
        return True
    if parent.type == "annassign" or parent.type == "tfpdef":
        return node is parent.children[1 if parent.type == "annassign" else 2]
    if parent.type == "funcdef":
        return node is parent.annotation or any(
            _last_name(one.children[1]) == "overload" for one in parent.get_decorators()
        )
    if parent.type == "classdef":
        bases = parent.get_super_arglist()
        return bases is not None and bases.get_code().startswith("Protocol")
    if node.type == "if_stmt":
        return node.children[1].get_code().strip() == "TYPE_CHECKING"
    return node.type == "expr_stmt" and any(name in node.get_code() for name in _TYPES)


def _last_name(node: Any) -> str:
    return str(node.get_code()).strip().partition("(")[0].rpartition(".")[2]


def _enclosing(node: Any, kind: type) -> Any:
    below = node
    while (parent := below.parent) is not None:
        # Defaults and decorators belong to the scope around.
        if isinstance(parent, kind) and below is parent.children[-1]:
            return parent
        below = parent
    return None


def _qualname(node: Any) -> str:
    names = []
    while (parent := node.parent) is not None:
        if parent.type in {"funcdef", "classdef"}:
            names.append(parent.name.value)
        node = parent
    return ".".join(reversed(names))


def _lines(node: Any, line: int) -> tuple[int, ...] | None:
    if _enclosing(node, Function) is None:
        return None
    statement = node
    while statement.type != "simple_stmt" and not statement.type.endswith("_stmt") and statement.type != "funcdef":
        statement = statement.parent
    last = statement.end_pos[0] if statement.type in {"simple_stmt", "expr_stmt", "return_stmt"} else line
    return tuple(range(statement.start_pos[0], max(last, line) + 1))

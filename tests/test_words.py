"""The words and the sizes of the package: standard terms, headed sentences, short functions and files."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import detseg

PACKAGE = Path(detseg.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

HEADLESS = re.compile(r"(What|Whether|How|Where|Those|It|Who)\b")
DENIED = frozenset(
    ["calm", "fault", "faults", "found", "headline", "judge", "kinds", "learns_from", "least", "machine", "machines"]
).union(["own", "said", "sought", "told", "trim", "way_on"])
DENIED_FIELDS = frozenset({"rows"})  # as an argument or an attribute; a local variable may hold the rows of a table
LONGEST_FUNCTION, LONGEST_FILE = 50, 350  # lines
MANY_ARGUMENTS, MOST_ARGUMENTS, MOST_WITH_MANY = 8, 10, 5

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[ast.AST], Iterator[tuple[int, str]]]


def headless(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Docstrings that begin with a clause without a head."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, Function)):
            text = ast.get_docstring(node) or ""
            if HEADLESS.match(text):
                yield getattr(node, "lineno", 1), text.partition("\n")[0]


def denied(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that stand for many things, each of which has a standard term."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                fields = False
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                fields = False
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                fields = True
            case _:
                continue
        if name.strip("_") in (DENIED | DENIED_FIELDS if fields else DENIED):
            yield node.lineno, name


def long_functions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield node.lineno, f"{node.name} has {lines} lines"


def argument_count(function: Function) -> int:
    """The arguments of a function, without ``self``, ``cls``, ``*args`` and ``**kwargs``."""
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@pytest.mark.parametrize("rule", [headless, denied, long_functions])
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    violations = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in FILES
        for line, text in rule(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert violations == []


def test_files_are_short() -> None:
    lengths = {path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {str(file): length for file, length in lengths.items() if length > LONGEST_FILE} == {}


def test_functions_take_few_arguments() -> None:
    counts = {
        f"{path.relative_to(PACKAGE)}: {node.name} (line {node.lineno})": argument_count(node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, Function)
    }
    many = {function: count for function, count in counts.items() if count >= MANY_ARGUMENTS}
    assert len(many) <= MOST_WITH_MANY, many
    assert max(many.values(), default=0) <= MOST_ARGUMENTS, many


@pytest.mark.parametrize(
    ("rule", "code", "violation"),
    [
        (headless, 'def f():\n    """What is left.\n\n    More."""', (1, "What is left.")),
        (headless, '"""How it is."""', (1, "How it is.")),
        (denied, "a = 1\nfound = a", (2, "found")),
        (denied, "def told(): pass", (1, "told")),
        (denied, "def f(*, own): pass", (1, "own")),
        (denied, "self.rows = 1", (1, "rows")),
        (denied, "for _found in a: pass", (1, "_found")),
        (long_functions, "def f():\n" + 50 * "    a\n", (1, "f has 51 lines")),
    ],
)
def test_a_violation_is_detected(rule: Rule, code: str, violation: tuple[int, str]) -> None:
    assert list(rule(ast.parse(code))) == [violation]


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (headless, '"""Items of a list."""'),
        (headless, 'def f():\n    """Howitzers."""'),
        (denied, "a = b.found"),  # of another library
        (denied, "rows = table.split()"),
        (long_functions, "def f():\n" + 49 * "    a\n"),
    ],
)
def test_other_code_passes(rule: Rule, code: str) -> None:
    assert list(rule(ast.parse(code))) == []


def test_arguments_are_counted() -> None:
    counts = {
        "def f(self, a, b=1, *args, c, **kwargs): pass": 3,
        "def f(cls, a): pass": 1,
        "def f(a, /, b, *, c): pass": 3,
        "def f(): pass": 0,
    }
    for code, count in counts.items():
        function = ast.parse(code).body[0]
        assert isinstance(function, Function)
        assert argument_count(function) == count

"""Every error code that our own code can answer with, found in its source."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from tests.architecture.tree import modules, parsed

# Which argument of a call is an error's code.
PLACE = {
    **dict.fromkeys(("ApiError", "StatedError", "Failure", "GrammarFailure", "_error"), 1),
    **dict.fromkeys(("OperationError", "BusyError", "NodeError", "BatchFileError"), 0),
    **dict.fromkeys(("ModelLoadError", "WorkerLoadError", "EngineStartError"), 0),
    **dict.fromkeys(("Refused", "_refuse"), 2),
    **dict.fromkeys(("_refusal", "_code"), 0),
}
KEYWORDS = {"code", "error_code"}
TABLE = re.compile(r"_?(\w+_)?(CODES|STATUSES|STATUS)")
CODE = re.compile(r"[a-z]+(_[a-z]+)+|forbidden|unauthorized|cancelled")


def found() -> dict[str, set[str]]:
    """Each code, with the modules that name it."""
    homes: dict[str, set[str]] = defaultdict(set)
    for name in modules():
        if name.startswith(("helexa_acp", "fleet.migrations", "cortex_site.cli")):
            continue
        for code in codes(parsed(name)):
            homes[code].add(name)
    return homes


def codes(tree: ast.Module) -> Iterator[str]:
    named = {
        ast.unparse(node.targets[0]): node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)
    }
    for expression in expressions(tree):
        yield from (text for text in texts(expression, named) if CODE.fullmatch(text))


def expressions(tree: ast.Module) -> Iterator[ast.expr]:
    """The expressions whose values are codes."""
    for node in ast.walk(tree):
        match node:
            case ast.Call():
                called = ast.unparse(node.func)
                place = PLACE.get(called.rpartition(".")[2])
                if called == "super().__init__" and len(node.args) > 2:
                    place = 1
                if place is not None and len(node.args) > place:
                    yield node.args[place]
                yield from (keyword.value for keyword in node.keywords if keyword.arg in KEYWORDS)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in KEYWORDS:
                yield value
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict() as table) if TABLE.fullmatch(name):
                yield from (*table.values, *(key for key in table.keys if key))
            case ast.Dict():
                pairs = zip(node.keys, node.values, strict=True)
                yield from (
                    value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "code"
                )


def texts(expression: ast.expr, named: dict[str, ast.expr], depth: int = 4) -> Iterator[str]:
    """What it may be: both sides of a choice, a constant of the module, values and default of a table."""
    if depth == 0:
        return
    match expression:
        case ast.Constant(value=str() as text):
            yield text
        case ast.IfExp(body=body, orelse=other):
            yield from (*texts(body, named, depth - 1), *texts(other, named, depth - 1))
        case ast.BoolOp(values=values):
            for value in values:
                yield from texts(value, named, depth - 1)
        case ast.Name(id=name) if name in named:
            yield from texts(named[name], named, depth - 1)
        case ast.Call(func=ast.Attribute(value=table, attr="get"), args=[_, default]):
            yield from texts(default, named, depth - 1)
            if isinstance(table, ast.Dict):
                for value in table.values:
                    yield from texts(value, named, depth - 1)

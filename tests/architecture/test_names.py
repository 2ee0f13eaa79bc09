"""One word, one thing: a public class has its name to itself, and no docstring names what does not exist."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

from tests.architecture.tree import modules, parsed

# Classes of one name that are the same thing at another layer, and why they may be.
_AGENT = "helexa-acp is a project of its own and shares nothing with the rest"
_WIRE = "the same JSON object of a public API, each with the fields that its reader needs"
SAME_THING = {
    **dict.fromkeys(("ConfigError", "Message", "SseEvent", "Tool", "Usage"), _AGENT),
    **dict.fromkeys(("ReasoningDelta", "TextDelta", "ToolCallStart", "ToolCallEnd"), _AGENT),
    **dict.fromkeys(("StreamOptions",), _WIRE),
}

NAME = re.compile(r"`([a-zA-Z_]\w*(?:\.\w+)*)(?:\(\))?`")
NO_CODE = re.compile(
    r"[A-Z][A-Z0-9_]*|.*\.(toml|json|py|pxd|md|jinja|db|sqlite3|safetensors|gguf)"
)  # a variable, a file


def package_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "neuron" else parts[0]


def test_no_public_class_name_stands_in_two_packages():
    homes = defaultdict(set)
    for module in modules():
        for node in parsed(module).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(module)
    twice = {
        name: sorted(places)
        for name, places in homes.items()
        if len({package_of(place) for place in places}) > 1 and name not in SAME_THING
    }
    assert not twice


def test_what_is_listed_as_the_same_thing_still_stands_twice():
    names = [
        node.name for module in modules() for node in parsed(module).body if isinstance(node, ast.ClassDef)
    ]
    assert not {name for name in SAME_THING if names.count(name) < 2}


def docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and (text := ast.get_docstring(node)):
            yield text


@cache
def words_of_code() -> frozenset[str]:
    """Every name in the code, and every word of its strings, docstrings and comments left out."""
    found: set[str] = set()
    for path in modules().values():
        source = path.read_text()
        before = tokenize.NEWLINE
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            documents = token.type == tokenize.STRING and before in {tokenize.NEWLINE, tokenize.INDENT}
            if token.type not in {tokenize.NL, tokenize.COMMENT}:
                before = token.type
                found |= set() if documents else set(re.findall(r"\w+", token.string))
    return frozenset(found | {part for name in modules() for part in name.split(".")})


@cache
def _arguments(module: str) -> frozenset[str]:
    return frozenset(node.arg for node in ast.walk(parsed(module)) if isinstance(node, ast.arg))


@cache
def settings() -> frozenset[str]:
    """The sections and keys of the settings files, which docstrings name as `section.key`."""
    sources = [parsed(name) for name in ("cortex_site.config.cortex_toml", "neuron.config")]
    fields = [node for source in sources for node in ast.walk(source) if isinstance(node, ast.AnnAssign)]
    return frozenset(ast.unparse(field.target) for field in fields)


def stale(text: str, home: str = "") -> list[str]:
    """The names in backticks that nothing in the code bears: `module.name` has to stand in that module.

    `home` is the module of the text: its own variables' attributes may be named too.
    """
    return [name for name in NAME.findall(text) if not NO_CODE.fullmatch(name) and not _exists(name, home)]


def _exists(name: str, home: str) -> bool:
    *path, last = name.split(".")
    if path and home and path[0] in _arguments(home):
        path = []
    if path and {*path, last} <= settings():
        return True
    homes = [module for module in modules() if path and module.split(".")[-len(path) :] == path]
    if homes and not any(name == module or module.endswith(f".{name}") for module in modules()):
        return any(re.search(rf"\b{last}\b", modules()[module].read_text()) for module in homes)
    return all(part in words_of_code() for part in [*path, last])


def test_docstrings_name_only_what_exists():
    found = {
        module: names
        for module in modules()
        if (names := [name for text in docstrings(parsed(module)) for name in stale(text, module)])
    }
    assert not found


def test_a_stale_name_is_found():
    assert stale("`no_such_function_anywhere` and `tree.nothing_here`, unlike `Pool.request`") == [
        "no_such_function_anywhere",
        "tree.nothing_here",
    ]

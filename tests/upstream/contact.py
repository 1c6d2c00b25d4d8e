"""Where our sources import vLLM and where they change what is not theirs, by their syntax trees.

What is foreign to a function: a parameter that is a vLLM type or says nothing of its type, what
hangs on one, and what was imported. A change is an assignment to a part of that, or a call that
adds to or takes from it. That is not all one could do; it is how this code touches vLLM.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ifedicl_serve/plugin/patches", "api/vllm")  # where vLLM's own may be changed
CHANGING = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "remove", "clear"}
REACHING = {"setattr", "delattr"}
INNER = {"__class__", "__dict__"}
OURS = "ifedicl"  # begins what we put on a server's state

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    """Our files under some folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """What a file imports of vLLM, anywhere in it, as `module:Name`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and _is_vllm(node.module):
            found |= {f"{node.module}:{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {f"{name.name}:" for name in node.names if _is_vllm(name.name)}
    return found


def changes(source: str) -> list[str]:
    """Statements of a file that change what is not its own."""
    tree = ast.parse(source)
    imported = {
        name.asname or name.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    vllms = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and _is_vllm(node.module)
        for name in node.names
    }
    return [ast.unparse(node) for node in _changes(tree, imported, vllms)]


def _changes(scope: ast.AST, foreign: set[str], vllms: set[str]) -> Iterator[ast.AST]:
    """Of a module or function, with the names that are foreign where it begins."""
    foreign = set(foreign)
    if isinstance(scope, Function):
        for parameter in _parameters(scope):
            told = parameter.annotation and ast.unparse(parameter.annotation)
            if parameter.arg in ("self", "cls") or (told and told not in {"Any", *vllms}):
                foreign.discard(parameter.arg)
            else:
                foreign.add(parameter.arg)
    for node in _inside(scope):
        if isinstance(node, Function):
            yield from _changes(node, foreign, vllms)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            targets = getattr(node, "targets", None) or [node.target]
            if any(_is_part(target, foreign) for target in targets):
                yield node
            for name in (t.id for target in targets for t in ast.walk(target) if _binds(t)):
                (foreign.add if _is_foreign(node.value, foreign) else foreign.discard)(name)
        elif isinstance(node, ast.Call) and _is_change(node, foreign):
            yield node
        elif isinstance(node, ast.Attribute) and node.attr in INNER:
            yield node


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a scope in their order, functions in it without what is in them."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, Function):
            yield from _inside(child)


def _parameters(function: Function) -> list[ast.arg]:
    a = function.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]


def _binds(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _is_vllm(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] == "vllm"


def _is_part(target: ast.AST, foreign: set[str]) -> bool:
    """Whether this is an attribute or item of something foreign, or of what `self` has."""
    if not isinstance(target, ast.Attribute | ast.Subscript):
        return False
    if isinstance(target, ast.Attribute) and target.attr.startswith(OURS):
        return False
    return _is_foreign(target.value, foreign) or _is_selfs(target)


def _is_foreign(value: ast.AST | None, foreign: set[str]) -> bool:
    while isinstance(value, ast.Attribute | ast.Subscript):
        value = value.value
    return isinstance(value, ast.Name) and value.id in foreign


def _is_selfs(target: ast.AST) -> bool:
    """`self.held.part`: what an object of ours holds may be vLLM's."""
    match target:
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="self"))):
            return True
    return False


def _is_change(call: ast.Call, foreign: set[str]) -> bool:
    match call.func:
        case ast.Name(id=name):
            return name in REACHING
        case ast.Attribute(value=value, attr=name):
            return name in CHANGING and _is_foreign(value, foreign)
    return False

"""Names in a package's sources, found by their syntax trees: nothing is imported or run."""

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Statement = ast.stmt


class Tree:
    """The Python files of a package under `root`, which holds the package's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}

    def module(self, name: str) -> "Module | None":
        """By its dotted name; None if there is no such file."""
        if name not in self._modules:
            path = self.root.joinpath(*name.split("."))
            files = (path / "__init__.py", path.with_suffix(".py"))
            found = next((file for file in files if file.is_file()), None)
            self._modules[name] = found and Module(self, name, found)
        return self._modules[name]

    def find(self, name: str) -> "Found | None":
        """What `package.module:Name` or `package.module:Class.member` is."""
        dotted, _, names = name.partition(":")
        module = self.module(dotted)
        if module is None:
            return None
        if not names:
            return Found(module, module.tree)
        first, *rest = names.split(".")
        found = module.find(first)
        for member in rest:
            found = found and found.member(member)
        return found


class Module:
    """One file, parsed when it is asked for something."""

    def __init__(self, tree: Tree, name: str, path: Path) -> None:
        self.package, self.name, self.path = tree, name, path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())

    @cached_property
    def names(self) -> dict[str, list[Statement]]:
        """Statements that bind a name at the top of the file, in any branch."""
        bound: dict[str, list[Statement]] = {}
        for statement in _statements(self.tree.body):
            for name in _bound(statement):
                bound.setdefault(name, []).append(statement)
        return bound

    def find(self, name: str) -> "Found | None":
        """A name of this module, followed to where it is defined."""
        statements = self.names.get(name, [])
        imports = [s for s in statements if isinstance(s, ast.Import | ast.ImportFrom)]
        own = [s for s in statements if s not in imports]
        if own:
            return Found(self, next((s for s in own if isinstance(s, ast.ClassDef)), own[0]))
        for statement in [*imports, *self.names.get("*", [])]:
            if found := self._imported(statement, name):
                return found
        submodule = self.package.module(f"{self.name}.{name}")
        return submodule and Found(submodule, submodule.tree)

    def _imported(self, statement: Statement, name: str) -> "Found | None":
        if not isinstance(statement, ast.ImportFrom):
            return None
        names = {a.asname or a.name: a.name for a in statement.names}
        origin = statement.module or ""
        if statement.level:
            parts = self.name.split(".")
            up = statement.level - (self.path.name == "__init__.py")
            origin = ".".join([*parts[: len(parts) - up], *filter(None, [origin])])
        module = self.package.module(origin)
        return module and module.find(names.get(name, name))


class Found:
    """A definition and the module it stands in."""

    def __init__(self, module: Module, node: ast.AST) -> None:
        self.module, self.node = module, node

    @cached_property
    def class_(self) -> "Found | None":
        """The class that this is, or that an object of this name is of."""
        if isinstance(self.node, ast.ClassDef):
            return self
        of: ast.AST | None = getattr(self.node, "annotation", None) or getattr(
            self.node, "value", None
        )
        of = of.func if isinstance(of, ast.Call) else of
        found = self.module.find(of.id) if isinstance(of, ast.Name) else None
        return found and found.class_

    def member(self, name: str) -> "Found | None":
        """A method, a field, or an attribute that a method sets on self; inherited ones too."""
        class_ = self.class_
        if class_ is None:
            return None
        for statement in _statements(class_.node.body):
            if name in _bound(statement):
                return Found(class_.module, statement)
        for node in ast.walk(class_.node):
            if _sets_on_self(node, name):
                return Found(class_.module, node)
        for base in class_.bases():
            if found := base.member(name):
                return found
        return None

    def bases(self) -> "Iterator[Found]":
        """Base classes that this package defines."""
        for base in self.node.bases:
            base = base.value if isinstance(base, ast.Subscript) else base
            found = self.module.find(base.id) if isinstance(base, ast.Name) else None
            if found and found.class_:
                yield found.class_

    def has(self, name: str) -> bool:
        """Whether a class has such a member, or the body of something else such a name or text."""
        if self.class_:
            return self.member(name) is not None
        return any(name in _mentioned(node) for node in ast.walk(self.node))

    @property
    def signature(self) -> str | None:
        """A function's parameters, `=` for those with a default, without annotations."""
        if not isinstance(self.node, Function):
            return None
        a = self.node.args
        positional = [*a.posonlyargs, *a.args]
        optional = len(positional) - len(a.defaults)
        shown = [p.arg + "=" * (i >= optional) for i, p in enumerate(positional)]
        if a.vararg or a.kwonlyargs:
            shown.append(f"*{a.vararg.arg if a.vararg else ''}")
        for parameter, default in zip(a.kwonlyargs, a.kw_defaults, strict=True):
            shown.append(parameter.arg + "=" * (default is not None))
        return ", ".join([*shown, *([f"**{a.kwarg.arg}"] if a.kwarg else [])])

    @property
    def value(self) -> object:
        """Of a constant."""
        value = getattr(self.node, "value", None)
        return value.value if isinstance(value, ast.Constant) else None

    @property
    def code(self) -> str:
        """Without comments, docstrings and layout; equal for what does the same."""
        copy = ast.parse(ast.unparse(self.node))
        for node in ast.walk(copy):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_text(body[0]):
                node.body = body[1:] or [ast.Pass()]
        return ast.unparse(copy)


def _statements(body: list[Statement]) -> Iterator[Statement]:
    """Those of a body and of its branches, not of the functions and classes in it."""
    for statement in body:
        yield statement
        if not isinstance(statement, Function | ast.ClassDef):
            for part in ("body", "orelse", "finalbody", "handlers"):
                for inner in getattr(statement, part, []):
                    yield from _statements([inner])


def _bound(statement: ast.AST) -> list[str]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)]
        case ast.Import() | ast.ImportFrom():
            return [a.asname or a.name for a in statement.names]
    return []


def _sets_on_self(node: ast.AST, name: str) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="self"), attr=attr, ctx=ast.Store()):
            return attr == name
    return False


def _mentioned(node: ast.AST) -> tuple[object, ...]:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            return (name,)
        case ast.keyword(arg=name) | ast.Constant(value=name):
            return (name,)
        case ast.Import() | ast.ImportFrom():
            return tuple(a.name for a in node.names)
    return ()


def _is_text(statement: Statement) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)

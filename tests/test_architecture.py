"""The floor plan, checked: who may import whom, and how long a function may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gbot

PACKAGE = Path(gbot.__file__).parent
ROOT = PACKAGE.parent
FUNCTION_LINES_MAX = 70

# One gatekeeper per dependency: only these modules may know it.
GATEKEEPERS = {
    "falcon": {"gbot.webhook", "gbot.admin"},
    "requests": {"gbot.outbound.session", "gbot.context"},  # a context knows the type of what it hands to authors
    "urllib3": set(),
    "certifi": {"gbot.outbound.route"},
    "psutil": {"gbot.sampler"},
    "httptools": {"gbot.http_parser", "gbot.outbound.http_answer"},  # what clients say, and what servers answer
    "pymysql": {f"gbot.database.{name}" for name in ("connection", "connector", "failures", "wire")},
    "sqlite3": {"gbot.inboxes.sqlite"},
    "click": {
        *("gbot.cli", "gbot.desk_cli", "gbot.inbox_cli", "gbot.users_cli", "gbot.chat_cli", "gbot.simulate_cli"),
        *("gbot.plan_cli", "gbot.check_cli", "gbot.settings_cli"),
    },
    "tomllib": {"gbot.config_sources"},
}
# Modules that take bytes, values and time, and return values.
PURE = {"gbot.platform", "gbot.event", "gbot.errors", "gbot.inbox", "gbot.bot", "gbot.wsgi", "gbot.http_parser"}
PURE |= {
    "gbot.backoff",
    "gbot.counts",
    "gbot.inbox_screens",
    "gbot.kinds",
    "gbot.limiter",
    "gbot.times",
    "gbot.user",
    "gbot.directory",
}
PURE |= {
    "gbot.outbound.http_answer",
    "gbot.json_events",
    "gbot.json_requests",
    "gbot.credentials",
    "gbot.outbound.retries",
}
PURE |= {"gbot.inboxes.changes", "gbot.inboxes.overlay", "gbot.inboxes.chunks"}
PURE |= {"gbot.draft", "gbot.chat_screen", "gbot.users_screens", "gbot.testing.answers", "gbot.testing.deliveries"}
PURE |= {"gbot.sender", "gbot.users", "gbot.broadcast", "gbot.outbound.circuit"}
PURE |= {
    "gbot.database.address",
    "gbot.database.advice",
    "gbot.database.outage",
    "gbot.database.sizing",
    "gbot.database.values",
    "gbot.checks.screens",
    "gbot.checks.finding",
    "gbot.checks.clock",
}
PURE |= {f"gbot.planning.{name}" for name in ("plan", "finding", "kinds", "screens", "rds_screens", "words", "verdict")}
SIMULATOR_RIM = {f"gbot.simulator.{name}" for name in ("server", "postman", "play", "stage")}
IMPURE = {"gevent", "falcon", "socket", "requests", "ssl", "subprocess", "threading", "asyncio", "selectors"}
# Contracts that rest beside their implementations.
INNER_CONTRACTS = {"gbot.inboxes.store"}
# What looks at implementations from outside, to tell whether they would work here.
CHECKS = {"gbot.checks.inbox", "gbot.checks.api"}
# A contract never knows who fulfils it.
CONTRACTS = {
    "gbot.platform": "gbot.platforms",
    "gbot.inbox": "gbot.inboxes",
    "gbot.directory": "gbot.inboxes",
    "gbot.sender": "gbot.outbound",
    "gbot.context": "gbot.outbound",
    "gbot.bot": "gbot.outbound",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(name: str) -> set[str]:
    """Everything a module imports anywhere in it, under TYPE_CHECKING too; a gbot module by its full name."""
    found: set[str] = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            assert node.module is not None
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (full & set(FILES)) or {node.module}
    return found


IMPORTS = {name: imports(name) for name in FILES}
INTERNAL = {name: found & set(FILES) for name, found in IMPORTS.items()}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_pure(name: str) -> bool:
    simulator = below(name, "gbot.simulator") and name not in SIMULATOR_RIM
    return name in PURE or below(name, "gbot.platforms") or simulator


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_the_modules_are_found() -> None:
    assert {"gbot", "gbot.bot", "gbot.platforms.line", "gbot.inboxes.memory", "gbot.__main__"} <= set(FILES)
    assert "gbot.bot" in INTERNAL["gbot"]


def test_no_module_imports_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for imported in INTERNAL[name]:
                visit(imported, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("dependency", GATEKEEPERS)
def test_each_dependency_has_one_gatekeeper(dependency: str) -> None:
    users = {name for name, found in IMPORTS.items() if any(below(module, dependency) for module in found)}
    assert users <= GATEKEEPERS[dependency]


def test_the_gatekeepers_of_this_stage_do_use_their_dependency() -> None:
    for dependency, name in [
        ("falcon", "webhook"),
        ("requests", "outbound.session"),
        ("httptools", "http_parser"),
        ("pymysql", "database.connection"),
    ]:
        assert any(below(module, dependency) for module in IMPORTS[f"gbot.{name}"])


@pytest.mark.parametrize("name", [name for name in FILES if is_pure(name)])
def test_pure_modules_import_nothing_that_does_io(name: str) -> None:
    assert not {module.partition(".")[0] for module in IMPORTS[name]} & IMPURE


@pytest.mark.parametrize(("contract", "implementations"), CONTRACTS.items())
def test_a_contract_knows_no_implementation(contract: str, implementations: str) -> None:
    assert not {name for name in INTERNAL[contract] if below(name, implementations)}


def test_only_the_engine_knows_implementations() -> None:
    for name, found in INTERNAL.items():
        for package in ("gbot.platforms", "gbot.inboxes", "gbot.outbound"):
            if not below(name, package) and name not in {"gbot.engine", *CHECKS} and not below(name, "gbot.testing"):
                assert not {module for module in found - INNER_CONTRACTS if below(module, package)}, name


def test_platforms_do_not_know_each_other() -> None:
    for name, found in INTERNAL.items():
        if name.startswith("gbot.platforms."):
            own = f"{name}_api"  # a platform's outgoing side
            assert {module for module in found if below(module, "gbot.platforms")} <= {own}


def test_nothing_knows_the_command_line_or_the_worker_but_what_starts_them() -> None:
    knows_cli = {name for name, found in INTERNAL.items() if "gbot.cli" in found}
    knows_worker = {name for name, found in INTERNAL.items() if "gbot.worker" in found}
    assert knows_cli == {"gbot.__main__"}
    assert knows_worker <= {"gbot.cli", "gbot.supervisor"}


def test_production_code_knows_neither_testing_nor_the_simulator() -> None:
    tools = {"gbot.chat", "gbot.chat_screen", "gbot.simulate_cli"}
    for name, found in INTERNAL.items():
        for package in ("gbot.testing", "gbot.simulator"):
            if not below(name, package) and name not in tools:
                assert not {module for module in found if below(module, package)}, name


def test_production_code_imports_no_tests() -> None:
    for name, found in IMPORTS.items():
        assert not {module for module in found if module.partition(".")[0] in ("tests", "pytest", "hypothesis")}, name


def run(code: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    return result.stdout.split()


def test_importing_gbot_loads_neither_gevent_nor_falcon() -> None:
    loaded = set(run("import sys, gbot; gbot.Bot(); print(*sys.modules)"))
    assert "gbot.bot" in loaded
    assert not loaded & {"gevent", "falcon", "requests", "psutil", "click", "httptools", "ssl", "urllib3"}


def test_the_program_is_patched_before_anything_else_is_imported() -> None:
    code = (
        "import sys, gevent.monkey as m\n"
        "def look(*given, original=m.patch_all):\n"
        "    print(*(name for name in sys.modules if name.startswith(('gbot', 'requests', 'urllib3', 'falcon'))))\n"
        "    sys.exit()\n"
        "m.patch_all = look\n"
        "import gbot.__main__"
    )
    assert not set(run(code)) & {"requests", "urllib3", "falcon", "gbot.worker", "gbot.cli"}


@pytest.mark.parametrize("name", FILES)
def test_every_module_says_what_it_is(name: str) -> None:
    tree = TREES[name]
    if tree.body:
        assert ast.get_docstring(tree), name


@pytest.mark.parametrize("name", FILES)
def test_no_function_is_too_long(name: str) -> None:
    for function in functions(TREES[name]):
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        assert lines <= FUNCTION_LINES_MAX, f"{name}.{function.name} has {lines} lines"


@pytest.mark.parametrize("name", FILES)
def test_every_function_is_annotated(name: str) -> None:
    for function in functions(TREES[name]):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not missing, f"{name}.{function.name}: {missing}"
        assert function.returns is not None, f"{name}.{function.name} has no return type"


def test_the_face_is_small_and_names_what_it_shows() -> None:
    assert len(FILES["gbot"].read_text().splitlines()) <= 50
    assert all(hasattr(gbot, name) for name in gbot.__all__)
    assert gbot.__all__ == sorted(gbot.__all__)

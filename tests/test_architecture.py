"""The house holds: imports go down only, every outside package has one door, modules and functions stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "ftpipe"
MODULES = sorted(path.relative_to(ROOT) for path in HOUSE.rglob("*.py"))

FLOORS = {
    "__main__": 8,
    "cli": 7,
    "sweep": 6,
    "pipeline": 5,
    "adopt": 5,
    "doctor": 6,
    "prepare": 4,
    "stages": 3,
    "gates": 3,
    "server": 3,
    "dataset": 2,
    "providers": 2,
    "registry": 2,
    "config": 2,
    "reports": 2,
    "evaluation": 2,
    "exporters": 2,
    "watcher": 1.5,
    "records": 1,
    "errors": 1,
    "paths": 1,
    "plain": 0,
    "similarity": 1,
    "canonical_json": 0,
}
"""Room → floor; the watcher stands on the stairs, since it speaks of records."""
DOORS = {
    "openai": ("ftpipe/providers/",),
    "click": ("ftpipe/cli/",),
    "rich": ("ftpipe/cli/",),
    "dotenv": ("ftpipe/config.py",),
    "tiktoken": ("ftpipe/dataset/tokens",),
    "jsonlines": ("ftpipe/dataset/",),
    "orjson": ("ftpipe/canonical_json.py", "ftpipe/dataset/", "ftpipe/server/", "ftpipe/registry/"),
    "tenacity": ("ftpipe/providers/base.py", "ftpipe/stages/poll.py"),
    "sqlalchemy": ("ftpipe/registry/", "ftpipe/server/store"),
    "starlette": ("ftpipe/server/",),
    "uvicorn": ("ftpipe/server/",),
    "jinja2": ("ftpipe/reports/", "ftpipe/server/masking.py", "ftpipe/dataset/template.py"),
    "torch": ("ftpipe/server/",),
    "transformers": ("ftpipe/server/",),
    "peft": ("ftpipe/server/",),
    "ray": ("ftpipe/server/trainers/crew.py",),
    "llguidance": ("ftpipe/server/grammar.py",),
    "wandb": ("ftpipe/exporters/",),
    "mlflow": ("ftpipe/exporters/",),
    "trackio": ("ftpipe/exporters/",),
}
STAGES = {"validate", "count", "upload", "create", "poll", "register", "evaluate"}
TYPES_ONLY = {("ftpipe/errors.py", "ftpipe.records")}
"""The error of bad data names its report; the import exists for the type checker alone."""
HEAVY = {"openai", "sqlalchemy", "torch", "transformers", "peft", "starlette", "uvicorn"}


def tree(path: Path) -> ast.Module:
    """The parsed module."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a module imports, with its line; names imported from a package count as its modules."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            if node.module == "ftpipe":
                yield from ((f"ftpipe.{alias.name}", node.lineno) for alias in node.names)


def room(dotted: str) -> str:
    """The room of a dotted name: ``dataset`` for ``ftpipe.dataset.read``; the records are one room in two modules."""
    name = dotted.split(".")[1] if "." in dotted else ""
    return name.removeprefix("evaluation_") if name == "evaluation_records" else name


def room_of(path: Path) -> str:
    """The room that a module lies in; empty for the face of the package."""
    return "" if path.parts[1] == "__init__.py" else room(f"ftpipe.{path.parts[1].removesuffix('.py')}")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_from_lower_floors_or_its_own_room(path: Path) -> None:
    """Nothing imports upward, and rooms of one floor do not know each other."""
    own = room_of(path)
    if not own:
        return
    upward = [
        f"{path}:{line} imports {name}"
        for name, line in imports(path)
        if name.startswith("ftpipe.") and (other := room(name)) in FLOORS and other != own
        if FLOORS[other] >= FLOORS[own] and (str(path), name) not in TYPES_ONLY
    ]
    assert upward == []


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "server"], ids=str)
def test_the_server_knows_only_the_ground_and_the_dataset(path: Path) -> None:
    """The two wings of the house share nothing else."""
    allowed = {"server", "dataset", "records", "errors", "paths", "similarity", "canonical_json", ""}
    assert [name for name, _ in imports(path) if name.startswith("ftpipe.") and room(name) not in allowed] == []


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "stages"], ids=str)
def test_a_stage_never_imports_another_stage_or_the_configuration(path: Path) -> None:
    """Stages are joined by the pipeline and by commands, not by each other."""
    foreign = {"config", "reports", "cli", "server"}
    named = [name for name, _ in imports(path) if name.startswith("ftpipe.")]
    assert [name for name in named if room(name) in foreign] == []
    others = STAGES - {path.stem}
    assert [name for name in named if name.startswith("ftpipe.stages.") and name.split(".")[2] in others] == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_outside_package_has_one_door(path: Path) -> None:
    """A package is imported only where the house has its door."""
    wrong = [
        f"{path}:{line} imports {name}"
        for name, line in imports(path)
        if (package := name.split(".")[0]) in DOORS and not str(path).startswith(DOORS[package])
    ]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_is_short_and_says_what_it_is_for(path: Path) -> None:
    """At most 300 lines, and one sentence in its first line."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    docstring = ast.get_docstring(tree(path))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":")), docstring.splitlines()[0]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_function_is_at_most_sixty_lines_long(path: Path) -> None:
    """Long functions hide their steps."""
    long = [(node.name, node.end_lineno - node.lineno + 1) for node in functions(path) if node.end_lineno]
    assert [(name, lines) for name, lines in long if lines > 60] == []


def test_the_median_function_is_at_most_ten_lines_long() -> None:
    """The measure of the whole house."""
    lengths = sorted(
        node.end_lineno - node.lineno + 1 for path in MODULES for node in functions(path) if node.end_lineno
    )
    assert lengths[len(lengths) // 2] <= 10


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_prints_asserts_or_has_a_name_that_says_nothing(path: Path) -> None:
    """Output goes through the command line, checks raise children of the error tree."""
    nodes = list(ast.walk(tree(path)))
    assert [node.lineno for node in nodes if isinstance(node, ast.Assert)] == []
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []
    assert path.stem not in {"utils", "util", "common", "manager", "helpers", "helper", "misc"}


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "cli"], ids=str)
def test_a_command_body_is_at_most_twenty_five_lines_long(path: Path) -> None:
    """A command parses, calls and renders; the work is done below."""
    for node in functions(path):
        is_command = any("command" in ast.unparse(decorator) for decorator in node.decorator_list)
        if is_command and node.end_lineno:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert node.end_lineno - body[0].lineno + 1 <= 25, node.name


def loaded_by(code: str) -> set[str]:
    """Heavy packages in memory after a fresh interpreter ran ``code``."""
    script = f"import sys\n{code}\nprint(*sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.splitlines()[-1].split()) if ran.stdout.strip() else set()


RUN = "from ftpipe.cli import run\ntry:\n    run({argv!r})\nexcept SystemExit as stop:\n    code = stop.code"


def test_the_public_face_is_light() -> None:
    """``import ftpipe`` loads nothing heavy."""
    assert loaded_by("import ftpipe") == set()


def test_help_loads_nothing_but_click() -> None:
    """``ftpipe --help`` answers without a single heavy package, and without pydantic."""
    assert loaded_by(RUN.format(argv=["--help"])) == set()
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ftpipe", "--help"], capture_output=True, text=True, check=True
    )
    assert "pydantic" not in seen.stderr
    assert "rich" not in seen.stderr


def test_preparing_loads_no_client_no_database_and_no_torch(tmp_path: Path) -> None:
    """``ftpipe prepare`` works from the file alone."""
    data = tmp_path / "data.jsonl"
    line = '{"messages":[{"role":"user","content":"hi %d"},{"role":"assistant","content":"hello"}]}\n'
    data.write_text("".join(line % number for number in range(12)), encoding="utf-8")
    assert loaded_by(RUN.format(argv=["prepare", str(data)])) == set()


def test_a_scanning_process_loads_no_records() -> None:
    """Its start is waited for, and pydantic would be half of it."""
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import ftpipe.dataset.pool as p; p.preload()"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ftpipe.dataset.blockscan" in seen.stderr
    assert "pydantic" not in seen.stderr

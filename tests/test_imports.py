"""Imports go one way, heavy packages load only when needed, and modules stay readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.each_file import for_each_file

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "ftpipe").rglob("*.py"))
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 500, 60

LAYERS = (
    (
        "formatting",
        "canonical_json",
        "pattern_search",
        "atomic_files",
        "child_environment",
        "file_hash",
        "process_priority",
        "sqlite_connection",
        "suggestions",
        "auto_epochs",
    ),
    ("records",),
    ("errors",),
    ("paths", "json_schema", "output_files"),
    ("tokenization", "grading", "modeling"),
    ("inference",),
    ("config", "catalog", "training"),
    ("dataset", "providers", "registry"),
    ("stages", "evaluation", "server", "reports", "advisor", "exporters"),
    ("pipeline",),
    ("sweep", "doctor", "migration", "gateway", "ui"),
    ("cli",),
    ("__main__",),
)
"""Subpackages from the bottom up. Each imports from layers below its own only; neighbours do not import each other."""
SERVER_MAY_IMPORT = {
    *("server", "dataset", "training", "inference", "modeling", "grading", "catalog", "records", "errors"),
    *(
        "paths",
        "json_schema",
        "pattern_search",
        "canonical_json",
        "atomic_files",
        "child_environment",
        "file_hash",
        "process_priority",
        "sqlite_connection",
        "suggestions",
        "auto_epochs",
    ),
}
"""The server is a program of its own: it shares these packages with the client and meets it over HTTP otherwise."""
STAGES_MAY_NOT_IMPORT = {"config", "reports", "cli", "server"}
IMPORTERS = {
    "openai": ("ftpipe/providers/",),
    "click": ("ftpipe/cli/",),
    "rich": ("ftpipe/cli/",),
    "dotenv": ("ftpipe/config.py",),
    "tiktoken": ("ftpipe/tokenization",),
    "jsonlines": ("ftpipe/dataset/", "ftpipe/evaluation/response_cache.py"),
    "orjson": ("ftpipe/canonical_json.py", "ftpipe/dataset/", "ftpipe/server/", "ftpipe/registry/", "ftpipe/gateway/"),
    "jsonschema": ("ftpipe/json_schema.py",),
    "jsonschema_specifications": ("ftpipe/json_schema.py",),
    "referencing": ("ftpipe/json_schema.py",),
    "tenacity": ("ftpipe/providers/retry.py", "ftpipe/registry/database.py"),
    "sqlalchemy": ("ftpipe/registry/", "ftpipe/server/storage"),
    "starlette": ("ftpipe/server/", "ftpipe/ui/", "ftpipe/cli/commands/ui.py"),
    "uvicorn": ("ftpipe/server/", "ftpipe/ui/serve.py"),
    "jinja2": ("ftpipe/reports/", "ftpipe/modeling/template_", "ftpipe/ui/rendering.py"),
    "torch": ("ftpipe/modeling/", "ftpipe/training/", "ftpipe/inference/"),
    "transformers": ("ftpipe/modeling/", "ftpipe/training/", "ftpipe/inference/"),
    "peft": ("ftpipe/modeling/", "ftpipe/training/", "ftpipe/inference/"),
    "ray": ("ftpipe/training/ray_cluster.py",),
    "llguidance": ("ftpipe/inference/constrained_decoding.py",),
    "wandb": ("ftpipe/exporters/",),
    "mlflow": ("ftpipe/exporters/",),
    "trackio": ("ftpipe/exporters/",),
}
"""Outside package → the only files that may import it."""
HEAVY = {"openai", "sqlalchemy", "torch", "transformers", "peft", "starlette", "uvicorn"}
VAGUE_NAMES = {"utils", "util", "common", "manager", "helpers", "helper", "misc"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a module imports, with its line, imports in functions and under TYPE_CHECKING included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def subpackage(dotted: str) -> str:
    """``dataset`` for ``ftpipe.dataset.reader``; empty for ``ftpipe`` itself."""
    return dotted.split(".")[1] if dotted.startswith("ftpipe.") else ""


def subpackage_of(path: Path) -> str:
    return "" if path.parts[1] == "__init__.py" else path.parts[1].removesuffix(".py")


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_layers_name_every_subpackage() -> None:
    """A new subpackage gets its place; one that is gone leaves the table."""
    named = [name for layer in LAYERS for name in layer]
    assert sorted(named) == sorted({subpackage_of(path) for path in MODULES} - {""})


@for_each_file(MODULES)
def test_layers_are_imported_downwards_only(path: Path) -> None:
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    own = subpackage_of(path)
    upward = {
        f"{path}:{line} imports {name}"
        for name, line in imports(path)
        if own and (other := subpackage(name)) in layer and other != own and layer[other] >= layer[own]
    }
    assert upward == set()


def test_import_graph_has_no_circles() -> None:
    """No module is reached from itself, not even through an import in a function or under TYPE_CHECKING."""
    names = {module_name(path): path for path in MODULES}
    graph = {name: {other for other, _ in imports(path)} & names.keys() - {name} for name, path in names.items()}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    # what is left is on a circle, or imports one: take away those that nothing left imports
    while starts := graph.keys() - {other for others in graph.values() for other in others}:
        graph = {name: others for name, others in graph.items() if name not in starts}
    assert sorted(graph) == []


@for_each_file([path for path in MODULES if subpackage_of(path) == "server"])
def test_server_imports_only_shared_packages(path: Path) -> None:
    assert {
        name for name, _ in imports(path) if subpackage(name) and subpackage(name) not in SERVER_MAY_IMPORT
    } == set()


@for_each_file([path for path in MODULES if subpackage_of(path) == "stages"])
def test_stages_do_not_import_each_other(path: Path) -> None:
    """Stages are joined by the pipeline and by commands."""
    stages = {each.stem for each in MODULES if subpackage_of(each) == "stages"} - {"__init__", "multipart_upload"}
    named = {name for name, _ in imports(path)}
    assert {name for name in named if subpackage(name) in STAGES_MAY_NOT_IMPORT} == set()
    others = {f"ftpipe.stages.{stage}" for stage in stages - {path.stem}}
    assert named & others == set()


@for_each_file(MODULES)
def test_third_party_import_allowlist(path: Path) -> None:
    wrong = {
        f"{path}:{line} imports {name}"
        for name, line in imports(path)
        if (package := name.split(".")[0]) in IMPORTERS and not str(path).startswith(IMPORTERS[package])
    }
    assert wrong == set()


@for_each_file(MODULES)
def test_module_size_and_docstring(path: Path) -> None:
    """At most 500 lines a module and 60 a function; the first line says in a sentence what the module is for."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    docstring = ast.get_docstring(tree(path))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":")), docstring.splitlines()[0]
    lengths = [(node.name, node.end_lineno - node.lineno + 1) for node in functions(path) if node.end_lineno]
    assert [(name, lines) for name, lines in lengths if lines > MAX_FUNCTION_LINES] == []


@for_each_file(MODULES)
def test_module_has_a_telling_name_and_no_print_or_assert(path: Path) -> None:
    """Output goes through the command line; checks raise children of the error tree."""
    nodes = list(ast.walk(tree(path)))
    assert [node.lineno for node in nodes if isinstance(node, ast.Assert)] == []
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []
    assert path.stem not in VAGUE_NAMES


def loaded_by(code: str) -> set[str]:
    """Heavy packages in memory after a fresh interpreter ran ``code``."""
    script = f"import sys\n{code}\nprint(*sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.splitlines()[-1].split()) if ran.stdout.strip() else set()


RUN = "from ftpipe.cli import run\ntry:\n    run({argv!r})\nexcept SystemExit as stop:\n    code = stop.code"


def test_import_ftpipe_loads_nothing_heavy() -> None:
    assert loaded_by("import ftpipe") == set()


def test_help_loads_nothing_but_click() -> None:
    """``ftpipe --help`` answers without a single heavy package, and without pydantic and rich."""
    assert loaded_by(RUN.format(argv=["--help"])) == set()
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ftpipe", "--help"], capture_output=True, text=True, check=True
    )
    assert "pydantic" not in ran.stderr
    assert "rich" not in ran.stderr


@pytest.mark.parametrize("command", ["serve", "status", "ui"])
def test_help_of_command_loads_no_server_and_no_database(command: str) -> None:
    assert loaded_by(RUN.format(argv=[command, "--help"])) == set()


def test_prepare_loads_no_client_no_database_and_no_torch(tmp_path: Path) -> None:
    """``ftpipe prepare`` works from the file alone."""
    data = tmp_path / "data.jsonl"
    line = '{"messages":[{"role":"user","content":"hi %d"},{"role":"assistant","content":"hello"}]}\n'
    data.write_text("".join(line % number for number in range(12)), encoding="utf-8")
    assert loaded_by(RUN.format(argv=["prepare", str(data)])) == set()


def test_scan_worker_loads_no_records() -> None:
    """Its start is waited for, and pydantic would be half of it."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import ftpipe.dataset.scan.parallel as p; p.preload()"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ftpipe.dataset.scan.scanner" in ran.stderr
    assert "pydantic" not in ran.stderr

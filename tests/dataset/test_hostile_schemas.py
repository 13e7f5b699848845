"""Tool schemas and arguments in a dataset can neither stop a check nor make it fetch or open anything."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.dataset.samples import chats, write

SLOW_PATTERN = "^(a+)+$"
LOOK_AROUND = "^(a|a)*(?!b)$"
SLOW = json.dumps({"a": "a" * 40 + "!"})


def tool_record(parameters: Any, arguments: str = "{}", calls: int = 1) -> dict[str, Any]:
    """A record that defines one tool and calls it."""
    made = [
        {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": arguments}}
        for number in range(calls)
    ]
    return {
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": made}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}],
    }


def property_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


def nested(levels: int) -> dict[str, Any]:
    return property_of(nested(levels - 1)) if levels else {}


def findings(path: Path, *, command: str = "validate") -> list[dict[str, Any]]:
    """The findings of a command in a process of its own, which is killed if it hangs."""
    output = path.with_suffix(f".{command}.findings")
    ran = subprocess.run(
        [sys.executable, "-m", "ftpipe", command, str(path), "--findings", str(output)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(path.parent), "PYTHONPATH": ":".join(sys.path)},
    )
    assert ran.returncode in (0, 1), ran.stderr
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("record", "code", "text"),
    [
        (tool_record(property_of({"pattern": SLOW_PATTERN}), SLOW, calls=20), "FT304", "does not match"),
        (tool_record({"patternProperties": {SLOW_PATTERN: {}}, "additionalProperties": False},
                     json.dumps({"a" * 40 + "!": 1})), "FT304", "unexpected"),
        (tool_record(property_of({"pattern": LOOK_AROUND}), SLOW, calls=200), "FT304", "cannot be checked"),
        (tool_record(property_of({"pattern": "(((a{999}){999}){999})(?=b)"}), SLOW), "FT304", "cannot be checked"),
        (tool_record({"$ref": "#"}), "FT301", "refers to itself"),
        (tool_record({"$ref": "#/$defs/missing"}), "FT301", "not a part of the schema"),
        (tool_record({"$defs": 5}), "FT301", "$defs"),
        (tool_record(nested(25)), "", ""),
        (tool_record({}, "[" * 100_000), "FT303", "not JSON"),
        (tool_record({}, "[" * 900 + "]" * 900), "", ""),
    ],
)  # fmt: skip
def test_hostile_tool_schema_is_a_finding(record: dict[str, Any], code: str, text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tools.jsonl", [*chats(11), record])
    reported = findings(path)
    if code:
        assert any(each["code"] == code and text in each["message"] for each in reported), reported


@pytest.mark.slow
def test_many_slow_schemas_take_bounded_time_together(tmp_path: Path) -> None:
    """Each is another one; after some seconds none gets much time any more, and ordinary schemas are still checked."""
    slow = [tool_record(property_of({"pattern": f"^(a|a)*(?!b{number})$"}), SLOW) for number in range(400)]
    doubled = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}}
    slow += [tool_record({"$defs": doubled, "$ref": "#/$defs/d0", "title": f"{number}"}) for number in range(100)]
    ordinary = tool_record(property_of({"type": "string", "pattern": "^x"}), '{"a": "y"}')
    reported = findings(write(tmp_path / "tools.jsonl", [*chats(11), *slow, ordinary]))
    unchecked = {each["line"] for each in reported if "cannot be checked" in each["message"]}
    assert unchecked == set(range(12, 512))
    assert any("\"y\" does not match '^x'" in each["message"] for each in reported)


def test_tool_schema_references_are_never_fetched(tmp_path: Path) -> None:
    """Neither over HTTP nor from a file; the finding says so."""
    requested: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_error(404)

    secret = tmp_path / "secret.json"
    secret.write_text('{"type": "string", "const": "top-secret"}', encoding="utf-8")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        references = [f"http://127.0.0.1:{server.server_port}/x.json", secret.as_uri()]
        records = [tool_record(property_of({"$ref": reference}), '{"a": 1}') for reference in references]
        path = write(tmp_path / "tools.jsonl", [*chats(11), *records])
        reported = [*findings(path), *findings(path, command="prepare")]
        server.shutdown()
    assert requested == []
    assert sum(each["code"] == "FT301" and "not fetched" in each["message"] for each in reported) == 4
    assert "top-secret" not in json.dumps(reported)

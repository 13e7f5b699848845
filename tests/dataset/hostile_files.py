"""Files that try to make a program that reads them fetch, open, run or write something, or never end."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.dataset.samples import chats, write

SLOW_PATTERN = "^(a+)+$"
HUGE = 17 * 1024 * 1024
"""More bytes than a line may have."""


class CommandAtLoad:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("touch pickled",)


def tool(parameters: Any, arguments: str = '{"a": 1}', name: str = "f") -> dict[str, Any]:
    """A record that defines one tool and calls it."""
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}],
        "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
    }


def content(value: Any, **more: Any) -> dict[str, Any]:
    """A record with something odd in place of the user's text."""
    return {"messages": [{"role": "user", "content": value}, {"role": "assistant", "content": "x"}], **more}


def image(url: str) -> dict[str, Any]:
    """A record with an image."""
    return content([{"type": "image_url", "image_url": {"url": url}}])


def schema_of(part: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": part}}


def records(url: str, secret: Path) -> Iterator[tuple[str, list[dict[str, Any] | bytes]]]:
    """Name and content of each JSONL file.

    Args:
        url: A web server that nothing may ask.
        secret: A file that nothing may open.
    """
    doubled = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {}}
    names = ("../../secret", "/etc/passwd", "C:\\secret", "con", "\u202egnp.exe", "\x1b]0;x\x07", "__class__", "$(id)")
    templates = (
        "{{ 7 * 7 }} {% include '/etc/passwd' %} ${jndi:ldap://127.0.0.1/x}",
        f"!include {secret} <!--#include file='{secret}'--> `cat {secret}` $(cat {secret}) @{secret}",
        "!!python/object/apply:os.system ['touch unpacked']",
    )
    yield "ref-http", [tool(schema_of({"$ref": f"{url}/x.json"}))]
    yield "ref-file", [tool(schema_of({"$ref": secret.as_uri()})), tool(schema_of({"$ref": str(secret)}))]
    yield "ref-id", [tool({"$id": f"{url}/", "properties": {"a": {"$ref": "x.json"}}})]
    yield "ref-dynamic", [tool(schema_of({"$dynamicRef": f"{url}/x#a"})), tool(schema_of({"$recursiveRef": f"{url}/"}))]
    yield "ref-meta-schema", [tool({"$schema": f"{url}/schema", "$vocabulary": {f"{url}/v": True}})]
    yield "ref-loop", [tool({"$ref": "#"}), tool({"$defs": doubled, "$ref": "#/$defs/d0"})]
    yield "pattern", [tool(schema_of({"pattern": SLOW_PATTERN}), json.dumps({"a": "a" * 40 + "!"}))]
    yield "pattern-huge", [tool(schema_of({"pattern": "(((a{999}){999}){999})(?=b)"}), '{"a": "a"}')]
    yield "arguments-deep", [tool({}, "[" * 100_000), tool({}, '{"a":' * 900 + "1" + "}" * 900)]
    yield "image-http", [image(f"{url}/x.png"), image(f"{url.replace('http:', '')}/x.png"), image("http://192.0.2.1/")]
    yield (
        "image-file",
        [image(each) for each in (secret.as_uri(), str(secret), "~/.ssh/id_rsa", r"\\127.0.0.1\x\y.png")],
    )
    yield "image-data", [image("data:image/png;base64," + "iVBORw0KGgo" * 9), image(f"data:text/html,<img src={url}>")]
    yield (
        "other-parts",
        [
            content([{"type": "input_audio", "input_audio": {"data": secret.as_uri(), "format": "wav"}}]),
            content([{"type": "file", "file": {"file_data": f"{url}/x.pdf", "filename": str(secret)}}]),
        ],
    )
    yield "templates", [content(text) for text in templates]
    yield (
        "keys",
        [content("x", **{key: f"{url}/x.json"}) for key in ("$ref", "$include", "@import", "file", "path", "url")],
    )
    yield "names", [tool(schema_of({}), name=name) for name in names]
    yield "roles", [{"messages": [{"role": name, "content": "x", "name": name}]} for name in names]
    yield "deep", [b"[" * 100_000, b'{"a":' * 5_000 + b"1" + b"}" * 5_000]
    yield "huge-line", [b'{"messages": "' + b"a" * HUGE + b'"}']
    yield "numbers", [b'{"messages": ' + b"9" * 5_000 + b"}", b'{"messages": 1e999}', b'{"messages": NaN}']
    yield "nul", [b"\x00" * 1_000, b'{"messages": "\x00"}', content("a\x00b")]
    yield "encodings", [b"\xff\xfe\x00\x00", b"\xc0\xaf\xed\xa0\x80", b'{"messages": "\\ud800"}']
    yield "e-mail", [content("a@" * 200_000), content("+1 " * 200_000)]
    yield "text-in-text", [content(json.dumps(tool(schema_of({"$ref": f"{url}/x.json"}))))]


def write_hostile_files(folder: Path, url: str, secret: Path) -> list[Path]:
    """Write all hostile files to a folder, and return their paths."""
    made = [write(folder / f"{name}.jsonl", [*chats(11), *rows]) for name, rows in records(url, secret)]
    good = "".join(json.dumps(row) + "\n" for row in chats(11))
    cells = ('=HYPERLINK("http://127.0.0.1/")', "=cmd|' /C calc'!A0", "@SUM(1)", f"=IMPORTXML({url})", str(secret))
    xxe = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{secret.as_uri()}"><!ENTITY h SYSTEM "{url}/e">]><x>&e;&h;</x>'
    sheet = io.BytesIO()
    with zipfile.ZipFile(sheet, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", xxe)
        archive.writestr("xl/workbook.xml", xxe)
        archive.writestr("../../slipped", "x")
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * HUGE)
    contents: dict[str, bytes] = {
        "bom.jsonl": b"\xef\xbb\xbf" + good.encode(),
        "utf-16.jsonl": good.encode("utf-16"),
        "utf-32.jsonl": good.encode("utf-32"),
        "formulas.csv": "\n".join(["prompt,completion", *(f'"{c}","{c}"' for c in cells)])
        .replace('"="', '"=')
        .encode(),
        "columns.csv": f"{secret},{url}/x\n../../x,$(id)\n".encode(),
        "quotes.csv": b'prompt,completion\n"' + b'a,""' * 100_000,
        "entities.jsonl": xxe.encode(),
        "entities.csv": xxe.encode(),
        "pickled.jsonl": pickle.dumps(CommandAtLoad()),
        "bomb.jsonl.gz": gzip.compress(b"0" * HUGE * 2),
        "bomb.jsonl": gzip.compress(b"[" * HUGE),
        "bomb.zip": sheet.getvalue(),
        "bomb.xlsx": sheet.getvalue(),
        "noise.parquet": b"PAR1" + b"\xff" * 1_000 + b"PAR1",
        "$(touch run);`touch run`.jsonl": good.encode(),
        "empty.jsonl": b"",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        made.append(folder / name)
    (folder / "zero.jsonl").symlink_to("/dev/zero")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    return [*made, folder / "zero.jsonl", folder / "loop.jsonl", Path(f"{url}/x.jsonl"), Path(secret.as_uri()), folder]

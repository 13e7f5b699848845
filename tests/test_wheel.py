"""The wheel has every file of the package: templates, static files with their licences, schemas, catalogues."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("hatchling")

ROOT = Path(__file__).parents[1]


def test_wheel_has_every_file_of_the_package() -> None:
    from hatchling.builders.wheel import WheelBuilder

    included = {Path(file.distribution_path) for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    present = {path.relative_to(ROOT) for path in (ROOT / "ftpipe").rglob("*") if path.is_file()}
    present = {path for path in present if "__pycache__" not in path.parts}
    assert present - included == set()
    assert included - present == set()
    ui = Path("ftpipe/ui")
    assert {ui / "static/page.css", ui / "static/htmx.LICENSE", ui / "templates/base.html.j2"} <= included

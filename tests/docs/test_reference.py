"""The pages that are made from the code are those that the code makes today."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ftpipe import errors
from tests.docs import reference


@pytest.mark.parametrize(("name", "make"), reference.PAGES.items(), ids=list(reference.PAGES))
def test_generated_page_is_up_to_date(name: str, make: Callable[[], str]) -> None:
    written = (reference.DOCS / name).read_text(encoding="utf-8")
    assert written == make(), "run `python -m tests.docs.reference`"


def test_errors_page_has_every_exit_code_of_the_errors() -> None:
    assert {kind.exit_code for kind in reference.error_kinds()} <= set(errors.EXIT_CODES)


def test_commands_page_has_every_option() -> None:
    page = reference.commands_page()
    options = [option for _, command in reference.commands() for option in command.params]
    visible = {option.opts[-1] for option in options if not getattr(option, "hidden", False) and option.opts}
    assert [name for name in visible if name.startswith("--") and name not in page] == []

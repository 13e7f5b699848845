"""One test for many files: a test for each file would cost more in fixtures than in checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


def for_each_file(paths: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make a check of one file a test of all of them that names every file that fails.

    Args:
        paths: The files.
    """

    def decorate(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            failures = []
            for path in paths:
                try:
                    check(path)
                except AssertionError as exc:
                    failures.append(f"{path}: {exc}")
            if failures:
                pytest.fail("\n".join(failures), pytrace=False)

        test.__name__ = test.__qualname__ = check.__name__
        test.__doc__, test.__module__ = check.__doc__, check.__module__
        return test

    return decorate

"""How much the tests try: few examples by default, and all of them with ``FTPIPE_TEST_EXAMPLES=full``, as in CI."""

from __future__ import annotations

import os

# read here, because the fixture own_home clears ftpipe's variables before each test
IS_FULL = os.environ.get("FTPIPE_TEST_EXAMPLES", "") == "full"
"""Whether every example is tried and no slow test left out."""


def examples(few: int, full: int) -> int:
    """The number of examples of a test.

    Args:
        few: On a developer's machine.
        full: In CI.
    """
    return full if IS_FULL else few

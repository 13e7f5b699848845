"""How many examples tests try: few by default, all of them if ``FTPIPE_TEST_EXAMPLES=full`` is set, as in CI."""

from __future__ import annotations

import os

# read here, because the fixture own_home clears ftpipe's variables before each test
_IS_FULL = os.environ.get("FTPIPE_TEST_EXAMPLES", "") == "full"


def examples(few: int, full: int) -> int:
    """The number of examples of a test.

    Args:
        few: On a developer's machine.
        full: In CI.
    """
    return full if _IS_FULL else few

"""The number of epochs that is chosen if none is requested."""

from __future__ import annotations

import pytest

from ftpipe.auto_epochs import auto_epochs


@pytest.mark.parametrize(
    ("examples", "epochs"),
    [
        *[(1, 25), (2, 25), (10, 10), (33, 3), (34, 3), (101, 3), (500, 3)],
        *[(8_334, 2), (9_000, 2), (20_000, 1), (30_000, 1)],
    ],
)
def test_auto_epochs_follow_the_published_rule(examples: int, epochs: int) -> None:
    assert auto_epochs(examples) == epochs

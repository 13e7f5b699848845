"""The entry point of a trainer process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.training import run
from ftpipe.training.__main__ import is_out_of_memory, main
from ftpipe.training.job_directory import OUT_OF_MEMORY_EXIT_CODE


def test_is_out_of_memory_knows_the_errors_of_torch() -> None:
    """The one for CPUs is what torch itself raises here."""
    import torch

    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), OUT_OF_MEMORY_EXIT_CODE), (ValueError(), None)])
def test_main_exit_code_says_that_memory_ran_out(
    error: Exception, code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other errors end the process as usual."""

    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(run, "run_job", fail)
    if code is None:
        with pytest.raises(ValueError):
            main([str(tmp_path)])
    else:
        assert main([str(tmp_path)]) == code

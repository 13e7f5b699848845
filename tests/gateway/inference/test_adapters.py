"""Adapters at an inference server: loaded at their first use, unloaded for others, never while they are in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

import pytest

from ftpipe.errors import NotFoundError, UsageError
from ftpipe.gateway.inference.adapters import Adapter, LoadedAdapters, PathMap, parse_path_map
from ftpipe.gateway.inference.client import AdapterLimitError, InferenceClient
from tests.fakes.chat_host import SECONDS
from tests.fakes.vllm import InferenceHost

Test = Callable[[LoadedAdapters, list[Adapter]], Awaitable[None]]


def run(host: InferenceHost, folder: Path, test: Test, *, max_loaded: int = 2) -> None:
    """Run a test with three adapters."""
    adapters = [Adapter(f"a{number}", folder / str(number)) for number in range(3)]
    for adapter in adapters:
        adapter.path.mkdir()
        (adapter.path / "adapter_config.json").write_text("{}")
        (adapter.path / "adapter_model.safetensors").write_bytes(b"x")

    async def main() -> None:
        client = InferenceClient(host.url)
        loaded = LoadedAdapters(client, PathMap(), max_loaded)
        try:
            await client.models()
            await test(loaded, adapters)
        finally:
            await loaded.close()
            await client.close()

    asyncio.run(main())


def test_adapter_that_was_not_used_for_the_longest_time_is_unloaded(host: InferenceHost, tmp_path: Path) -> None:
    async def test(loaded: LoadedAdapters, adapters: list[Adapter]) -> None:
        for number in (0, 1, 0, 2):
            await loaded.load(adapters[number])
        assert sorted(host.adapters) == loaded.names() == ["a0", "a2"]

    run(host, tmp_path, test)


def test_adapter_in_use_is_not_unloaded(host: InferenceHost, tmp_path: Path) -> None:
    async def test(loaded: LoadedAdapters, adapters: list[Adapter]) -> None:
        async with loaded.in_use(adapters[0]), loaded.in_use(adapters[1]):
            for adapter in adapters:
                await loaded.load(adapter)
            assert len(host.adapters) == 3  # more than the limit, because nothing could be unloaded
            assert await loaded.unload("a0") is False
        assert await loaded.unload("a0") is True
        assert sorted(host.adapters) == ["a1", "a2"]

    run(host, tmp_path, test)


def test_limit_of_the_inference_server_unloads_adapters(host: InferenceHost, tmp_path: Path) -> None:
    """It may be lower than this server's; an error only if all adapters are in use."""
    host.api, host.max_loaded = "sglang", 1

    async def test(loaded: LoadedAdapters, adapters: list[Adapter]) -> None:
        await loaded.load(adapters[0])
        await loaded.load(adapters[1])
        assert list(host.adapters) == ["a1"]
        async with loaded.in_use(adapters[1]):
            with pytest.raises(AdapterLimitError):
                await loaded.load(adapters[2])

    run(host, tmp_path, test, max_loaded=9)


def test_adapter_that_another_server_loads_is_kept(host: InferenceHost, tmp_path: Path) -> None:
    async def test(loaded: LoadedAdapters, adapters: list[Adapter]) -> None:
        host.adapters["of-somebody-else"] = "/x"
        for adapter in adapters:
            await loaded.load(adapter)
        assert "of-somebody-else" in host.adapters

    run(host, tmp_path, test, max_loaded=1)


def test_unload_that_was_refused_is_not_tried_again(host: InferenceHost, tmp_path: Path) -> None:
    """VLLM goes on listing such an adapter; a request for it loads it again."""

    async def test(loaded: LoadedAdapters, adapters: list[Adapter]) -> None:
        loaded.add(["a0"])
        assert [await loaded.unload("a0"), await loaded.unload("a0")] == [False, False]
        assert host.admin == [("unload", "a0")]
        await loaded.load(adapters[0])
        assert await loaded.unload("a0") is True

    run(host, tmp_path, test)


def test_adapters_that_cannot_be_unloaded_do_not_stop_others(host: InferenceHost, tmp_path: Path) -> None:
    """They are listed again at each look, and count as loaded."""

    async def test(loaded: LoadedAdapters, adapters: list[Adapter]) -> None:
        loaded.add(["a0", "a1"])
        assert [await loaded.unload("a0"), await loaded.unload("a1")] == [False, False]
        loaded.add(["a0", "a1"])
        async with asyncio.timeout(SECONDS):
            await loaded.load(adapters[2])
        assert "a2" in host.adapters

    run(host, tmp_path, test, max_loaded=1)


def test_deleted_adapter_is_not_sent(host: InferenceHost, tmp_path: Path) -> None:
    async def test(loaded: LoadedAdapters, adapters: list[Adapter]) -> None:
        (adapters[0].path / "adapter_config.json").unlink()
        with pytest.raises(NotFoundError):
            await loaded.load(adapters[0])
        assert host.admin == []

    run(host, tmp_path, test)


def test_path_map_takes_the_longest_folder() -> None:
    paths = parse_path_map(["/data=/mnt", "/data/server=/ftpipe"])
    assert paths.there(Path("/data/server/jobs/a")) == "/ftpipe/jobs/a"
    assert paths.there(Path("/data/server")) == "/ftpipe"
    assert paths.there(Path("/data/servers/a")) == "/mnt/servers/a"
    assert paths.there(Path("/other")) == "/other"
    assert paths.pairs[0] == (Path("/data"), PurePosixPath("/mnt"))


@pytest.mark.parametrize("value", ["/data", "=/mnt", "/data=", "/data=relative"])
def test_path_map_refuses_other_forms(value: str) -> None:
    with pytest.raises(UsageError, match="--inference-path"):
        parse_path_map([value])

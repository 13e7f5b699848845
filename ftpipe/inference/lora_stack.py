"""LoRA adapters side by side: one product of two matrices for rows that have different adapters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ftpipe.inference.batch_model import MAX_ADAPTERS, Precision
from ftpipe.inference.lora_weights import LayerKey, LoraPair, read_lora
from ftpipe.inference.packed_linear import PackedLinear, PackedLinearAdd, pack_linear, pack_linear_add

if TYPE_CHECKING:
    import torch

RANK_MULTIPLE = 16
"""Columns of an adapter in a stack are a multiple of it: products in bfloat16 add up pairs of columns."""
MIN_ROWS_ALONE = 32
"""With so many rows per adapter, each is computed by itself: the columns of others would cost more than they save."""
MAX_SHARED_STACKS = 2
"""Stacks of several adapters in memory."""
MAX_SHARED_BYTES = 16 << 20
"""Larger adapters are only computed by themselves, so that the memory of stacks is bounded."""

Matrices: TypeAlias = "Mapping[LayerKey, LoraPair]"
"""Of an adapter, from ``read_lora``."""


class LoraStack:
    """The matrices of adapters side by side.

    Between the two products, the columns of all adapters but a row's own are set to zero. Adding zeros changes no sum:
    results are equal bit by bit to those of an adapter alone, in bfloat16 and float32, for 2 to 16 adapters at each
    position, 1 to 64 rows, one and two threads (torch 2.13, an AMD EPYC, 2026-11-29).

    Args:
        adapters: Their matrices.
        dtype: Of the products: bfloat16 or float32.
        device: Of the base model.
    """

    def __init__(self, adapters: Sequence[Matrices], dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        keys = dict.fromkeys(key for pairs in adapters for key in pairs)
        self._layers = {key: self._pack([pairs.get(key) for pairs in adapters]) for key in keys}

    def _pack(self, pairs: Sequence[LoraPair | None]) -> _StackedLayer:
        import torch

        precision: Precision = "bfloat16" if self._dtype.itemsize == 2 else "float32"
        widths = tuple(0 if pair is None else -(-len(pair.down) // RANK_MULTIPLE) * RANK_MULTIPLE for pair in pairs)
        downs: list[torch.Tensor] = []
        ups: list[torch.Tensor] = []
        for pair, width in zip(pairs, widths, strict=True):
            if pair is not None:
                padding = width - len(pair.down)
                downs.append(torch.nn.functional.pad(pair.down, (0, 0, 0, padding)))
                ups.append(torch.nn.functional.pad(pair.up, (0, padding)))
        down = pack_linear(torch.cat(downs).to(self._device), None, precision)
        return _StackedLayer(down, pack_linear_add(torch.cat(ups, 1).to(self._device), precision), widths)

    def add_to(self, output: torch.Tensor, inputs: torch.Tensor, key: LayerKey, owners: RowOwners) -> torch.Tensor:
        """The output of a fused layer with what the rows' adapters add for its inputs."""
        layer = self._layers.get(key)
        if layer is None:
            return output
        columns = layer.down(inputs)
        mask = owners.mask(layer.widths)
        return layer.add_up(columns if mask is None else columns.masked_fill_(mask, 0.0), output)


@dataclass(frozen=True)
class _StackedLayer:
    down: PackedLinear
    add_up: PackedLinearAdd
    widths: tuple[int, ...]
    """Columns of each adapter; 0 for one that does not change the layer."""


@dataclass
class RowOwners:
    """The number of each row's adapter in a stack, or -1."""

    numbers: torch.Tensor | None = None
    """``None`` if all rows have the only adapter of the stack."""
    _masks: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    def mask(self, widths: tuple[int, ...]) -> torch.Tensor | None:
        """Which columns each row does not have; ``None`` if it has all."""
        import torch

        if self.numbers is None:
            return None
        if widths not in self._masks:
            device = self.numbers.device
            columns = torch.arange(len(widths), device=device).repeat_interleave(torch.tensor(widths, device=device))
            self._masks[widths] = self.numbers[:, None] != columns
        return self._masks[widths]


@dataclass(frozen=True)
class LoraRows:
    """The adapters of a batch of rows: stacks, each with its first row, the row behind its last one, and the owners."""

    parts: tuple[tuple[LoraStack, int, int, RowOwners], ...]

    def add_to(self, output: torch.Tensor, inputs: torch.Tensor, key: LayerKey) -> torch.Tensor:
        """The output of a fused layer with what the rows' adapters add; it may be changed in place."""
        if len(self.parts) == 1 and self.parts[0][2] - self.parts[0][1] == len(output):
            return self.parts[0][0].add_to(output, inputs, key, self.parts[0][3])
        for stack, start, end, owners in self.parts:
            output[start:end] = stack.add_to(output[start:end], inputs[start:end], key, owners)
        return output


@dataclass(frozen=True)
class _Adapter:
    matrices: Matrices | None
    """``None`` if it is too large for stacks of several."""
    stack: LoraStack
    """Of it alone."""


class LoraAdapters:
    """The adapters of a base model that are in memory.

    Args:
        outputs: For each fused layer the number of outputs of its parts.
        layers: Number of layers of the base model.
        dtype: Of the products: bfloat16 or float32.
        device: Of the base model.
    """

    def __init__(
        self, outputs: Mapping[str, tuple[int, ...]], layers: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._outputs, self._count = outputs, layers
        self._dtype, self._device = dtype, device
        self._adapters: OrderedDict[Path, _Adapter] = OrderedDict()
        self._shared: OrderedDict[tuple[Path, ...], LoraStack] = OrderedDict()

    def __len__(self) -> int:
        """How many are in memory."""
        return len(self._adapters)

    def __contains__(self, adapter: Path) -> bool:
        """Whether it is in memory."""
        return adapter in self._adapters

    def clear(self) -> None:
        """Forget all adapters."""
        self._adapters.clear()
        self._shared.clear()

    def load(self, adapter: Path, needed: Collection[Path] = ()) -> None:
        """Load it if it is not in memory; others are dropped for it, except for those that are needed, too.

        Raises:
            UnsupportedAdapterError: The adapter has other parts; peft can load it.
            NotFoundError: There is no such adapter.
        """
        if adapter not in self._adapters:
            pairs = {
                key: LoraPair(pair.down.to(self._dtype), pair.up.to(self._dtype))
                for key, pair in read_lora(adapter, self._outputs, self._count).items()
            }
            size = sum(pair.down.nbytes + pair.up.nbytes for pair in pairs.values())
            stack = LoraStack([pairs], self._dtype, self._device)
            self._adapters[adapter] = _Adapter(pairs if size <= MAX_SHARED_BYTES else None, stack)
        self._adapters.move_to_end(adapter)
        for other in [path for path in self._adapters if path not in needed and path != adapter]:
            if len(self._adapters) <= MAX_ADAPTERS:
                break
            del self._adapters[other]

    def rows(self, adapters: Sequence[Path | None], counts: Sequence[int], total: int) -> LoraRows:
        """Which adapter each row of a batch has.

        Args:
            adapters: Of the sequences; those of the same adapter are side by side.
            counts: Rows of each sequence.
            total: Number of rows; those behind the rows of the sequences can have any adapter.
        """
        import torch

        needed = dict.fromkeys(adapter for adapter in adapters if adapter is not None)
        for adapter in needed:
            self.load(adapter, needed)
        if len(needed) * MIN_ROWS_ALONE > total and all(self._adapters[one].matrices is not None for one in needed):
            paths, stack = self._shared_stack(list(needed))
            numbers = [
                -1 if adapter is None else paths.index(adapter)
                for adapter, count in zip(adapters, counts, strict=True)
                for _ in range(count)
            ]
            numbers += numbers[-1:] * (total - len(numbers))
            is_single = len(paths) == 1 and -1 not in numbers
            owners = RowOwners() if is_single else RowOwners(torch.tensor(numbers, device=self._device))
            return LoraRows(((stack, 0, total, owners),))
        parts: list[tuple[LoraStack, int, int, RowOwners]] = []
        start = 0
        for own, members in groupby(zip(adapters, counts, strict=True), key=itemgetter(0)):
            end = start + sum(count for _, count in members)
            end = total if end == sum(counts) else end
            if own is not None:
                parts.append((self._adapters[own].stack, start, end, RowOwners()))
            start = end
        return LoraRows(tuple(parts))

    def _shared_stack(self, needed: Sequence[Path]) -> tuple[tuple[Path, ...], LoraStack]:
        """A stack of these adapters, or of at most twice as many: not each answer that ends changes it."""
        if len(needed) == 1:
            return (needed[0],), self._adapters[needed[0]].stack
        for paths in reversed(self._shared):
            if set(needed) <= set(paths) and len(paths) <= 2 * len(needed):
                self._shared.move_to_end(paths)
                return paths, self._shared[paths]
        matrices = [pairs for path in needed if (pairs := self._adapters[path].matrices) is not None]
        paths = tuple(needed)
        self._shared[paths] = LoraStack(matrices, self._dtype, self._device)
        while len(self._shared) > MAX_SHARED_STACKS:
            self._shared.popitem(last=False)
        return paths, self._shared[paths]

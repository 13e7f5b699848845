"""Linear layers in the precisions of inference, whose weights are packed once.

A row of the result does not depend on the other rows, so that an answer does not depend on its neighbours in a batch:
equal bit by bit for 1 to 512 rows and for one and two threads (torch 2.13, an AMD EPYC with avx512_bf16 and
avx512_vnni, 2026-11-29).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

    from ftpipe.inference.batch_model import Precision

PackedLinear: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""Maps activations of any type, a row each, to bfloat16 if that is its precision, else to float32."""

PackedLinearAdd: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
"""Adds a linear layer of the first argument to the second one, which may be changed."""


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision) -> PackedLinear:
    """A linear layer with its weights in the layout of the processor.

    Args:
        weight: In any floating-point type; one row for each output.
        bias: Of each output.
        precision: Of the products; sums are at least float32.
    """
    if precision == "int8" and weight.device.type == "cpu":
        return _pack_int8(weight, bias)
    return _pack_float(weight, bias, precision)


def pack_linear_add(weight: torch.Tensor, precision: Precision) -> PackedLinearAdd:
    """A linear layer whose result is added to something; one operator if that has the precision of the products."""
    import torch

    dtype = _float_type(precision)
    weight = weight.detach().to(dtype).contiguous()
    packed = _reorder(weight)
    if packed is None:
        return lambda rows, others: others.add_(torch.nn.functional.linear(rows.to(dtype), weight))
    multiply, multiply_add = torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._linear_pointwise.binary

    def add(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        if rows.shape[0] == 1:  # see _pack_float
            return add(rows.expand(2, -1), others.repeat(2, 1))[:1]
        if others.dtype != rows.dtype:
            return others.add_(multiply(rows, packed, None, "none", [], ""))
        result: torch.Tensor = multiply_add(rows, others, packed, None, "add")
        return result

    return add


def has_int8_kernels() -> bool:
    """Whether torch can multiply in int8 on this processor."""
    import torch

    return bool({"x86", "fbgemm"} & set(torch.backends.quantized.supported_engines))


def _pack_float(weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision) -> PackedLinear:
    """One row is computed as two: for a row alone oneDNN adds up in another order if there are many inputs."""
    linear = _pack_float_rows(weight, bias, precision)
    return lambda rows: linear(rows) if rows.shape[0] > 1 else linear(rows.expand(2, -1))[:1]


def _pack_float_rows(weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision) -> PackedLinear:
    import torch

    dtype = _float_type(precision)
    weight = weight.detach().to(dtype).contiguous()
    bias = None if bias is None else bias.detach().to(dtype)
    packed = _reorder(weight)
    if packed is None:
        return lambda rows: torch.nn.functional.linear(rows.to(dtype), weight, bias)
    linear = torch.ops.mkldnn._linear_pointwise.default
    return lambda rows: linear(rows.to(dtype), packed, bias, "none", [], "")


def _float_type(precision: Precision) -> torch.dtype:
    import torch

    return torch.float32 if precision == "float32" else torch.bfloat16


def _reorder(weight: torch.Tensor) -> torch.Tensor | None:
    """Weights in the layout of oneDNN; ``None`` if torch or the processor has no products for it.

    They need no reordering at each call: 11 ms instead of 18 for the layers of SmolLM2-135M. That is in bfloat16 for
    one row; for 16 rows it is 15 instead of 26 (2026-11-29).
    """
    import torch

    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        torch.ops.mkldnn._linear_pointwise.default(weight[:1], packed, None, "none", [], "")
    except (AttributeError, RuntimeError):  # a torch without these operators, or a processor without bfloat16
        return None
    return packed


def _pack_int8(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
    """Weights in int8 with a scale for each output, activations in 8 bits with a scale for each row.

    torch has one scale for all rows. So each row is divided by its largest value, and two columns of +1 and -1, whose
    weights are zero, give all rows the same range.
    """
    import torch

    quantized = torch.ops.quantized
    multiply = quantized.linear_dynamic.default
    ends = torch.tensor([[1.0, -1.0]])
    wide = torch.nn.functional.pad(weight.detach().float(), (0, 2))
    scales = (wide.abs().amax(1) / 127).clamp_min(1e-12).double()
    zero_points = torch.zeros(len(wide), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantize_per_channel.*deprecated", category=UserWarning)
        packed = quantized.linear_prepack(torch.quantize_per_channel(wide, scales, zero_points, 0, torch.qint8), None)
    float_bias = None if bias is None else bias.detach().float()
    # without VNNI, sums of two products in 16 bits overflow unless activations have 7 bits
    reduce_range = not torch.cpu._is_vnni_supported()

    def linear(rows: torch.Tensor) -> torch.Tensor:
        largest = rows.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
        scaled = torch.cat((rows / largest, ends.expand(rows.shape[0], 2)), 1)
        result: torch.Tensor = multiply(scaled, packed, reduce_range)
        result *= largest
        return result if float_bias is None else result.add_(float_bias)

    return linear

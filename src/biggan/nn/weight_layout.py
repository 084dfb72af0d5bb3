"""Weights as matrices whose columns are in the order of memory, so that no view of one is a copy.

Shapes: L layers, O outputs, M all other dimensions of a weight together.
"""

from collections.abc import Sequence

from torch import Tensor


def memory_order(weight: Tensor) -> str:
    """The order of a weight in memory: "channels-last" for kernels larger than 1x1 in that format, else "contiguous"."""
    if weight.dim() == 4 and weight.shape[2] > 1 and not weight.is_contiguous():
        return "channels-last"
    return "contiguous"


def matrix_view(weight: Tensor) -> Tensor:
    """A weight as the matrix (O, M), its columns in the order of memory, without a copy."""
    if memory_order(weight) == "channels-last":
        return weight.permute(0, 2, 3, 1).flatten(1)
    return weight.reshape(len(weight), -1)


def weight_view(matrix_OM: Tensor, weight: Tensor) -> Tensor:
    """A matrix in the shape and order of memory of a weight; the inverse of `matrix_view`."""
    if memory_order(weight) == "channels-last":
        outputs, inputs, height, width = weight.shape
        return matrix_OM.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
    if weight.dim() == 4:
        return matrix_OM.view_as(weight).as_strided(weight.shape, weight.stride())  # 1x1 kernels: strides are ambiguous
    return matrix_OM.view_as(weight)


def stacked_view(matrices: Sequence[Tensor]) -> Tensor | None:
    """Matrices (O, M) as one view (L, O, M), where they lie at equal distances in one tensor; None where they do not."""
    first = matrices[0]
    offsets = [matrix.storage_offset() for matrix in matrices]
    distance = offsets[1] - offsets[0] if len(offsets) > 1 else first.numel()
    for index, matrix in enumerate(matrices):
        same_storage = matrix.untyped_storage()._cdata == first.untyped_storage()._cdata
        if not same_storage or offsets[index] != offsets[0] + index * distance or not matrix.is_contiguous():
            return None
    return first.as_strided((len(matrices), *first.shape), (distance, *first.stride()))

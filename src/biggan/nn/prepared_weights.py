"""Spectrally normalized weights of a whole network, prepared at once for the passes of one optimizer step.

The plain form, nn/spectral_norm, normalizes layer by layer inside each forward pass. Here the same mathematics is done for
all layers before the pass: power iteration batched over layers, division by sigma, resampling merged into kernels and the
cast to the type of the products, each in one operation for many layers. The kernels are then given to the layers, which
apply them as they are. A custom backward pass turns gradients of kernels into gradients of weights.

The rule of the vectors is that of the plain form: one power iteration for each batch that the network is trained on. The
micro-batches of one optimizer step, and the passes of its penalties, share the kernels.

So that the weights of several layers are one tensor without a copy, the weights (and vectors u) of a group are views of one
tensor; their names, values and shapes stay as they are. Shapes: L layers of a group, O outputs (of its largest layer; the
others are padded with zeros, which change neither norms nor products), M all other dimensions of a weight in the order of
its memory, I inputs, T taps of the stored and T' of the applied kernel.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from biggan.nn.batch_norm import AffineNorm, ClassConditionalTable
from biggan.nn.layers import Conv2d, Embedding, Linear, ReparametrizedLayer, identity_kernel
from biggan.nn.spectral_norm import SpectralNorm
from biggan.nn.weight_layout import matrix_view, memory_order, weight_view

PADDING = 1 << 18
"""Zeros that may pad the weights of a group: a megabyte, of small layers."""


class PreparedWeights:
    """The spectrally normalized weights of a network. Products are computed in `dtype`, but for layers in float32.

    `prepare` computes the kernels, with one power iteration that updates the vectors u; `attach` gives them to the layers,
    for the passes of one backward pass; `detach` takes them away, after which layers normalize their weights themselves.
    A network without spectral normalization has nothing to prepare but casts."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self.groups = [MatrixGroup(layers, dtype) for layers in group_layers(network)]
        self.uses = [use for group in self.groups for use in group.uses]
        self.epsilon = self.groups[0].layers[0].reparametrization.epsilon if self.groups else 0.0
        self.casts, self.dtype = list(cast_parameters(network, dtype)), dtype

    @torch.no_grad()
    def prepare(self) -> None:
        """One power iteration of every layer, and the kernels that follow from it. Mutates the vectors u of layers in
        training mode."""
        if not self.groups:
            return
        for group in self.groups:
            group.share_storage()
        right = [group.left_L1O @ group.weight_LOM for group in self.groups]  # v (L, 1, M), not yet normalized
        left = [right_L1M @ group.weight_LOM.mT for right_L1M, group in zip(right, self.groups, strict=True)]  # (L, 1, O)
        vectors = [vector for group in right + left for vector in group.unbind()]
        right_norm, left_norm = torch.stack(torch._foreach_norm(vectors)).chunk(2)  # (layers,) each
        right_norm = right_norm.clamp_(min=self.epsilon)  # as in spectral_norm.power_iteration
        left_norm = left_norm.div_(right_norm)
        clamped = left_norm.clamp(min=self.epsilon)
        sigma = left_norm.square().div_(clamped)  # u W v'
        norms = torch.stack([clamped, sigma]).mul_(right_norm)
        start = 0
        for group, left_L1O, right_L1M in zip(self.groups, left, right, strict=True):
            layers = (slice(start, start := start + len(group.layers)), None, None)
            group.prepare_kernels(left_L1O, norms[0][layers], right_L1M, norms[1][layers], sigma[layers])

    def attach(self) -> None:
        """Give each layer its kernel, through which gradients reach its weight where that wants them. To be called anew for
        each backward pass."""
        for use in self.uses:
            use.attach()
        if self.casts:
            values = Cast.apply(self.dtype, *(getattr(layer, source) for layer, source, _ in self.casts))
            for (layer, _, name), value in zip(self.casts, values, strict=True):
                setattr(layer, name, value)

    def detach(self) -> None:
        """Take the kernels away."""
        for use in self.uses:
            use.detach()
        for layer, _, name in self.casts:
            setattr(layer, name, None)


def group_layers(network: nn.Module) -> list[list[ReparametrizedLayer]]:
    """The spectrally normalized layers, grouped by the width M of their matrices, the largest first in each group. A group
    ends where the zeros that pad its layers would be too many."""
    by_width: dict[int, list[list[ReparametrizedLayer]]] = defaultdict(list)
    layers = (layer for layer in network.modules() if isinstance(layer, Linear | Embedding | Conv2d))
    spectral = [layer for layer in layers if isinstance(layer.reparametrization, SpectralNorm)]
    for layer in sorted(spectral, key=lambda layer: -len(layer.weight)):
        groups = by_width[layer.weight[0].numel()]
        if not groups or has_too_much_padding([*groups[-1], layer]):
            groups.append([])
        groups[-1].append(layer)
    return [group for groups in by_width.values() for group in groups]


def has_too_much_padding(layers: list[ReparametrizedLayer]) -> bool:
    """Whether zeros that pad each weight to the size of the first are more than PADDING and a quarter of the weights."""
    weights = sum(layer.weight.numel() for layer in layers)
    return len(layers) * layers[0].weight.numel() - weights > max(PADDING, weights / 4)


def cast_parameters(network: nn.Module, dtype: torch.dtype) -> Iterator[tuple[nn.Module, str, str]]:
    """Parameters that only have to be cast for the passes: the layer, the name of the parameter, and that of the attribute
    for what is cast. They are biases, and gains and tables of norms."""
    for layer in network.modules():
        if (
            isinstance(layer, Linear | Conv2d)
            and layer.bias is not None
            and not layer.in_float32
            and layer.bias.dtype != dtype
        ):
            yield layer, "bias", "prepared_bias"
        elif isinstance(layer, ClassConditionalTable) and layer.weight.dtype != dtype:
            yield layer, "weight", "prepared"
        elif isinstance(layer, AffineNorm) and layer.gain.dtype != dtype:
            yield layer, "gain", "prepared_gain"
            yield layer, "bias", "prepared_bias"


class MatrixGroup:
    """Layers whose matrices have one width M: their power iteration is one batched product each way."""

    def __init__(self, layers: list[ReparametrizedLayer], dtype: torch.dtype) -> None:
        key = lambda layer: use_of(layer, dtype)  # noqa: E731
        self.layers = sorted(layers, key=lambda layer: [getattr(part, "__name__", repr(part)) for part in key(layer)])
        outputs, first = max(len(layer.weight) for layer in layers), layers[0].weight
        with torch.no_grad():
            self.weight_LOM = first.new_zeros(len(layers), outputs, first[0].numel())
            self.left_L1O = first.new_zeros(len(layers), 1, outputs)
        self.share_storage()
        self.uses: list[KernelUse] = []
        start = 0
        for (*_, kernel_dtype), members in groupby(self.layers, key):
            count = len(list(members))
            self.uses.append(KernelUse(self, slice(start, start + count), kernel_dtype))
            start += count

    def share_storage(self) -> None:
        """Make the layers' weights and vectors views of the group's tensors, if they are not, keeping their values: loading
        and moving a network may replace tensors. Mutates the layers."""
        storage = self.weight_LOM.untyped_storage()._cdata
        if all(layer.weight.untyped_storage()._cdata == storage for layer in self.layers):
            return
        device = self.layers[0].weight.device
        with torch.no_grad():
            self.weight_LOM, self.left_L1O = self.weight_LOM.to(device), self.left_L1O.to(device)
            for layer, weight_OM, left_1O in zip(self.layers, self.weight_LOM, self.left_L1O, strict=True):
                outputs = len(layer.weight)
                weight_OM[:outputs].copy_(matrix_view(layer.weight))
                left_1O[:, :outputs].copy_(layer.reparametrization.u)
                layer.weight.data = weight_view(weight_OM[:outputs], layer.weight)
                layer.reparametrization.u = left_1O[:, :outputs]

    def prepare_kernels(
        self, left_L1O: Tensor, left_norm_L11: Tensor, right_L1M: Tensor, right_norm_L11: Tensor, sigma_L11: Tensor
    ) -> None:
        """Update the vectors u (in training mode) and compute the kernels of all layers. `left` and `right` are u and v
        before they are normalized; `left_norm` is the norm of u, `right_norm` that of v times sigma."""
        updated = self.left_L1O if self.layers[0].reparametrization.training else torch.empty_like(self.left_L1O)
        torch.div(left_L1O, left_norm_L11, out=updated)
        for use in self.uses:
            vectors = updated[:, :, : use.outputs], right_L1M, right_norm_L11, sigma_L11
            use.left_L1O, use.right_L1M, use.right_norm_L11, use.sigma_L11 = (values[use.layers] for values in vectors)
            use.prepare()


class KernelUse:
    """Consecutive layers of a group whose kernels are made in one way: resampling merged in, inputs and outputs transposed
    for transposed convolutions, in `dtype`. Of some only the first `rows` outputs are computed."""

    left_L1O: Tensor
    right_L1M: Tensor
    right_norm_L11: Tensor
    sigma_L11: Tensor

    def __init__(self, group: MatrixGroup, layers: slice, dtype: torch.dtype) -> None:
        self.group, self.layers, self.dtype = group, layers, dtype
        self.members = group.layers[layers]
        first = self.members[0]
        self.taps = resampling_taps(first) if isinstance(first, Conv2d) else None
        self.transposed = isinstance(first, Conv2d) and first.transposed
        self.channels_last = memory_order(first.weight) == "channels-last"
        self.outputs = max(len(layer.weight) for layer in self.members)
        self.rows = [getattr(layer, "computed_outputs", None) or len(layer.weight) for layer in self.members]
        self.kernels: list[Tensor] = []

    @property
    def weight_LOM(self) -> Tensor:
        """The weights (L, O, M)."""
        return self.group.weight_LOM[self.layers, : self.outputs]

    def prepare(self) -> None:
        """Compute the kernels from weights and sigma."""
        matrix = self.weight_LOM[:, : max(self.rows)]
        if self.taps is not None:
            matrix = self.combine_taps(matrix, self.taps)  # (L, rows, T' I)
        matrix = self.transpose_channels(matrix)
        kernel = torch.empty(matrix.shape, dtype=self.dtype, device=matrix.device)
        torch.div(matrix, self.sigma_L11.view(-1, *[1] * (kernel.dim() - 1)), out=kernel)
        self.kernels = [self.in_layer_shape(*item) for item in zip(kernel.unbind(), self.members, self.rows, strict=True)]

    def combine_taps(self, matrix: Tensor, taps: Tensor) -> Tensor:
        """The taps of each kernel multiplied by a matrix (T', T): (L, O, T I) -> (L, O, T' I) in the order of memory."""
        if self.channels_last:
            return (taps @ matrix.unflatten(2, (taps.shape[1], -1))).flatten(2)
        return (matrix.unflatten(2, (-1, taps.shape[1])) @ taps.T).flatten(2)

    def transpose_channels(self, matrix: Tensor) -> Tensor:
        """Kernels in the order of memory in which they are applied: (L, O, M), but of transposed convolutions, where inputs
        come first, (L, I, T', O) or (L, I, O, T')."""
        if not self.transposed:
            return matrix
        if self.channels_last:
            return matrix.unflatten(2, (len(self.taps), -1)).transpose(1, 3)
        return matrix.unflatten(2, (-1, len(self.taps))).transpose(1, 2)

    def in_layer_shape(self, kernel: Tensor, layer: ReparametrizedLayer, rows: int) -> Tensor:
        """A kernel as its layer applies it: (rows, M), (rows, I, k, k), of a transposed convolution (I, O, k, k)."""
        if not self.transposed:
            kernel = kernel[:rows]
        if layer.weight.dim() == 2:
            return kernel
        size = layer.weight.shape[2] if self.taps is None else round(len(self.taps) ** 0.5)
        if self.channels_last:
            return kernel.reshape(len(kernel), size, size, -1).permute(0, 3, 1, 2)
        return kernel.reshape(len(kernel), -1, size, size)

    def stack_gradients(self, gradients: Sequence[Tensor]) -> Tensor:
        """Gradients of kernels in the order of memory of the weights, stacked: (L, rows, k, k, I) or (L, rows, ...)."""
        matrices = []
        for gradient in gradients:
            if gradient.dim() == 4:
                gradient = gradient.transpose(0, 1) if self.transposed else gradient
                gradient = gradient.permute(0, 2, 3, 1) if self.channels_last else gradient
            matrices.append(gradient)
        if min(self.rows) == max(self.rows):
            return torch.stack([matrix.reshape(matrices[0].shape) for matrix in matrices])
        padded = matrices[0].new_zeros(len(matrices), max(self.rows), *matrices[0].shape[1:])
        views = [item[: len(matrix)] for item, matrix in zip(padded, matrices, strict=True)]
        torch._foreach_copy_(views, [matrix.view_as(view) for matrix, view in zip(matrices, views, strict=True)])
        return padded

    def attach(self) -> None:
        """Give the kernels to the layers, with gradients where the weights want them."""
        kernels: Sequence[Tensor] = self.kernels
        if torch.is_grad_enabled() and self.members[0].weight.requires_grad:
            kernels = NormalizedWeight.apply(self, *(layer.weight for layer in self.members))
        for layer, kernel in zip(self.members, kernels, strict=True):
            layer.prepared = kernel

    def detach(self) -> None:
        """Take the kernels away from the layers."""
        for layer in self.members:
            layer.prepared = None
        self.kernels = []


class NormalizedWeight(torch.autograd.Function):
    """The kernels of one use as functions of the weights: W / (u W v') with resampling merged in. The values are those that
    were prepared; the backward pass treats u and v as constants, as the plain form does."""

    @staticmethod
    def forward(ctx: Any, use: KernelUse, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.use = use
        ctx.save_for_backward(use.weight_LOM, use.left_L1O, use.right_L1M, use.right_norm_L11, use.sigma_L11)
        return tuple(kernel.detach() for kernel in use.kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *kernel_gradients: Tensor) -> tuple[Tensor | None, ...]:
        """g / sigma - (sum of W * g / sigma) u' v / sigma, for the gradient g of the kernel before resampling is merged."""
        use: KernelUse = ctx.use
        weight_LOM, left_L1O, right_L1M, right_norm_L11, sigma_L11 = ctx.saved_tensors
        stacked = use.stack_gradients(kernel_gradients)
        gradient = (stacked / sigma_L11.view(-1, *[1] * (stacked.dim() - 1))).flatten(2)  # (L, rows, T' I), float32
        if use.taps is not None:
            gradient = use.combine_taps(gradient, use.taps.T)  # (L, rows, M)
        if gradient.shape != weight_LOM.shape:
            padded = gradient.new_zeros(weight_LOM.shape)
            padded[:, : gradient.shape[1]] = gradient
            gradient = padded
        along_L11 = (gradient * weight_LOM).sum((1, 2), keepdim=True).div_(right_norm_L11)
        gradient.baddbmm_((left_L1O * along_L11).mT, right_L1M, alpha=-1)
        return None, *(
            weight_view(item[: len(layer.weight)], layer.weight) for item, layer in zip(gradient, use.members, strict=True)
        )


class Cast(torch.autograd.Function):
    """Tensors in another type, all in one operation, and their gradients back in theirs."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        cast = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(cast, list(tensors))
        return tuple(cast)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cast = [torch.empty_like(gradient, dtype=ctx.dtype) for gradient in gradients]
        torch._foreach_copy_(cast, list(gradients))
        return None, *cast


def use_of(layer: ReparametrizedLayer, dtype: torch.dtype) -> tuple[Any, ...]:
    """How a layer applies its weight: how resampling is merged into its kernel, in which order of memory, in which type."""
    if layer.in_float32:
        dtype = layer.weight.dtype
    order = memory_order(layer.weight)
    if not isinstance(layer, Conv2d) or layer.transform_kernel is identity_kernel:
        return None, 1, order, 0, dtype
    outputs = len(layer.weight) if layer.transposed else 0  # rows of unequal length do not come last
    return layer.transform_kernel, layer.dilation, order, outputs, dtype


def resampling_taps(layer: Conv2d) -> Tensor | None:
    """The matrix (T', T) by which merging the resampling of a convolution transforms the taps of its kernel; None where it
    leaves them as they are."""
    if layer.transform_kernel is identity_kernel:
        return None
    size = layer.weight.shape[2]
    unit = torch.eye(size * size, dtype=layer.weight.dtype, device=layer.weight.device)
    transformed = layer.transform_kernel(unit.view(size * size, 1, size, size), layer.dilation)
    if layer.transposed:
        transformed = transformed.transpose(0, 1)
    return transformed.flatten(1).T.contiguous()

"""The largest singular values of a matrix, and their vectors.

BigGAN section 4 follows the first three of every weight (by Arnoldi iteration), and clamps or penalizes the first. Matrices
whose smaller side is at most DENSE are decomposed whole, by way of their Gram matrix in float64. For larger ones a Krylov
space is grown a block at a time, through products with W and W' alone, and cut back to its best vectors when it is full
(thick restart; Wu & Simon 2000); no second matrix of their size is ever made. Nothing here carries gradients.

Shapes: R rows, C columns, K wanted values, S the smaller side of the matrix.
"""

from typing import NamedTuple

import torch
from torch import Tensor

DENSE = 256

TOLERANCE = 1e-5  # of the residual, relative to the eigenvalue: bounds twice the relative error of the singular value

ROUNDING = 1e-6  # of float32 products, relative to sigma_0 sigma_k

NOTHING = 1e-3  # of sigma_0: smaller values may be inexact

RESTART = 160  # columns of the Krylov space at most

KEPT = 24  # of them kept on a restart

MOST_PRODUCTS = 600  # blocks, after which what there is is returned


class SingularTriplets(NamedTuple):
    """W is about left @ diag(values) @ right.T: (K,) descending, (R, K), (C, K); unit columns."""

    values: Tensor
    left: Tensor
    right: Tensor


@torch.no_grad()
def leading_singular_triplets(weight_RC: Tensor, count: int = 3, start: Tensor | None = None) -> SingularTriplets:
    """The `count` largest singular values, within 1e-5 of themselves (below a thousandth of the first, of it), and their
    vectors, float32.

    Fewer where the matrix is smaller. `start` (S, any): vectors to begin from, best those of a matrix nearby, which
    `warm_start` gives; drawn from a fixed seed otherwise. Vectors of values that are nearly equal are only defined together.
    """
    wide = weight_RC.shape[0] <= weight_RC.shape[1]
    matrix_SM = (weight_RC if wide else weight_RC.T).float()  # (S, M), S at most M
    count = min(count, len(matrix_SM))
    vectors_SK = dense_basis(matrix_SM, count) if len(matrix_SM) <= DENSE else krylov_basis(matrix_SM, count, start)
    others_MK = matrix_SM.T @ vectors_SK  # (M, K)
    values_K = others_MK.double().norm(dim=0).float()
    others_MK = others_MK / values_K.clamp(min=torch.finfo(torch.float32).tiny)
    left, right = (vectors_SK, others_MK) if wide else (others_MK, vectors_SK)
    return SingularTriplets(values_K, left, right)


def warm_start(found: SingularTriplets) -> Tensor:
    """The vectors (S, K) from which the same search may begin next time."""
    return found.left if len(found.left) <= len(found.right) else found.right


def dense_basis(matrix_SM: Tensor, count: int) -> Tensor:
    """Leading eigenvectors (S, K) of the Gram matrix, by a full decomposition in float64."""
    gram_SS = torch.zeros(len(matrix_SM), len(matrix_SM), dtype=torch.float64, device=matrix_SM.device)
    for piece in matrix_SM.split(4096, dim=1):
        gram_SS += piece.double() @ piece.double().T
    return torch.linalg.eigh(gram_SS).eigenvectors[:, -count:].flip(1).float()


def krylov_basis(matrix_SM: Tensor, count: int, start: Tensor | None) -> Tensor:
    """The same (S, K) from products with the matrix and its transpose."""
    size, block = len(matrix_SM), count + 1
    drawn = torch.randn(size, block, generator=torch.Generator().manual_seed(0)).to(matrix_SM.device)
    new = drawn if start is None else torch.cat([start.to(drawn), drawn[:, :1]], 1)
    basis = new[:, :0]  # (S, 0)
    images = basis  # W W' basis
    for _ in range(MOST_PRODUCTS):
        new = orthonormal(new, basis)
        basis = torch.cat([basis, new], 1)
        images = torch.cat([images, matrix_SM @ (matrix_SM.T @ new)], 1)
        projected = basis.T.double() @ images.double()
        values, mixes = torch.linalg.eigh((projected + projected.T) / 2)
        mixes = mixes.flip(1).float()
        best, image = basis @ mixes[:, :count], images @ mixes[:, :count]  # (S, K)
        top = values.flip(0)[:count].float()
        residual = image - best * top  # (S, K)
        residual = residual - best @ (best.T @ residual)  # what rounding leaves of a far larger first one is no error
        rounding = ROUNDING * (top[0] * top).clamp(min=0).sqrt()
        exact = (residual.norm(dim=0) <= TOLERANCE * top + rounding) | (top <= NOTHING**2 * top[0])
        if exact.all() or basis.shape[1] >= size:
            break
        new = residual if basis.shape[1] > block else images[:, -block:]
        if basis.shape[1] + new.shape[1] > RESTART:
            basis = torch.linalg.qr(basis @ mixes[:, :KEPT]).Q
            images = matrix_SM @ (matrix_SM.T @ basis)  # anew, so that rounding does not pile up
    return best


def orthonormal(vectors: Tensor, basis: Tensor) -> Tensor:
    """The vectors made orthonormal to each other and to an orthonormal basis; those that lie in it become arbitrary."""
    for _ in range(2):  # once is not enough in float32
        vectors = vectors - basis @ (basis.T @ vectors)
        vectors = torch.linalg.qr(vectors).Q
    return vectors

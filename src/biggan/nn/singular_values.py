"""The largest singular values of a matrix and their singular vectors.

BigGAN monitors the three largest singular values of every weight (by Arnoldi iteration) and clamps or penalizes the first
(section 4). Matrices whose smaller side is at most MAX_DENSE_SIZE are decomposed completely, through their Gram matrix in
float64. For larger ones block Krylov iteration with thick restart (Wu & Simon 2000) is used: a Krylov space grows by one
block of vectors per iteration through products with W and W' alone and, when it is full, is reduced to its best vectors. No
second matrix of the size of W is allocated. Nothing here has gradients.

Shapes: R rows, C columns, K requested singular values, S smaller and M larger side of the matrix.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MAX_DENSE_SIZE = 256

TOLERANCE = 1e-5  # residual relative to the eigenvalue; bounds twice the relative error of the singular value

ROUNDING = 1e-6  # rounding error of float32 products, relative to sigma_0 sigma_k

NEGLIGIBLE = 1e-3  # singular values below this fraction of sigma_0 may be inexact

MAX_BASIS_SIZE = 160  # vectors in the Krylov space

RESTART_SIZE = 24  # vectors that a restart retains

MAX_ITERATIONS = 600  # blocks of products, after which the present estimate is returned


class SingularTriplets(NamedTuple):
    """W is approximately left @ diag(values) @ right.T: values (K,) in descending order, left (R, K), right (C, K) with unit
    columns."""

    values: Tensor
    left: Tensor
    right: Tensor


@torch.no_grad()
def leading_singular_triplets(weight_RC: Tensor, count: int = 3, start: Tensor | None = None) -> SingularTriplets:
    """The `count` largest singular values and their singular vectors, float32; fewer if the matrix is smaller. The relative
    error of the values is at most 1e-5; for values below a thousandth of the first it is relative to the first.

    `start` (S, any number): initial vectors, ideally those that `warm_start` returns for a similar matrix; None: random from
    a fixed seed. Of nearly equal singular values, only the space that their vectors span is well defined.
    """
    wide = weight_RC.shape[0] <= weight_RC.shape[1]
    matrix_SM = (weight_RC if wide else weight_RC.T).float()  # (S, M), S at most M
    count = min(count, len(matrix_SM))
    dense = len(matrix_SM) <= MAX_DENSE_SIZE
    short_SK = dense_eigenvectors(matrix_SM, count) if dense else krylov_eigenvectors(matrix_SM, count, start)
    long_MK = matrix_SM.T @ short_SK  # (M, K)
    values_K = long_MK.double().norm(dim=0).float()
    long_MK = long_MK / values_K.clamp(min=torch.finfo(torch.float32).tiny)
    left, right = (short_SK, long_MK) if wide else (long_MK, short_SK)
    return SingularTriplets(values_K, left, right)


def warm_start(triplets: SingularTriplets) -> Tensor:
    """The vectors (S, K) to pass as `start` for a similar matrix, for example the weight after the next training step."""
    return triplets.left if len(triplets.left) <= len(triplets.right) else triplets.right


def dense_eigenvectors(matrix_SM: Tensor, count: int) -> Tensor:
    """Leading eigenvectors (S, K) of the Gram matrix W W', from its complete decomposition in float64."""
    gram_SS = torch.zeros(len(matrix_SM), len(matrix_SM), dtype=torch.float64, device=matrix_SM.device)
    for columns in matrix_SM.split(4096, dim=1):
        gram_SS += columns.double() @ columns.double().T
    return torch.linalg.eigh(gram_SS).eigenvectors[:, -count:].flip(1).float()


def krylov_eigenvectors(matrix_SM: Tensor, count: int, start: Tensor | None) -> Tensor:
    """Leading eigenvectors (S, K) of the Gram matrix W W', from products with W and W' alone."""
    size, block_size = len(matrix_SM), count + 1
    random = torch.randn(size, block_size, generator=torch.Generator().manual_seed(0)).to(matrix_SM.device)
    block = random if start is None else torch.cat([start.to(random), random[:, :1]], 1)
    basis = block[:, :0]  # (S, 0)
    products = basis  # W W' basis
    for _ in range(MAX_ITERATIONS):
        block = orthonormalize(block, basis)
        basis = torch.cat([basis, block], 1)
        products = torch.cat([products, matrix_SM @ (matrix_SM.T @ block)], 1)
        projected = basis.T.double() @ products.double()
        eigenvalues, coefficients = torch.linalg.eigh((projected + projected.T) / 2)
        coefficients = coefficients.flip(1).float()
        ritz_vectors, product = basis @ coefficients[:, :count], products @ coefficients[:, :count]  # (S, K)
        ritz_values = eigenvalues.flip(0)[:count].float()
        residual = product - ritz_vectors * ritz_values  # (S, K)
        # A first singular value far above the others leaves rounding errors in their residuals that are no errors of theirs.
        residual = residual - ritz_vectors @ (ritz_vectors.T @ residual)
        rounding = ROUNDING * (ritz_values[0] * ritz_values).clamp(min=0).sqrt()
        converged = residual.norm(dim=0) <= TOLERANCE * ritz_values + rounding
        negligible = ritz_values <= NEGLIGIBLE**2 * ritz_values[0]
        if (converged | negligible).all() or basis.shape[1] >= size:
            break
        block = residual if basis.shape[1] > block_size else products[:, -block_size:]
        if basis.shape[1] + block.shape[1] > MAX_BASIS_SIZE:
            basis = torch.linalg.qr(basis @ coefficients[:, :RESTART_SIZE]).Q
            products = matrix_SM @ (matrix_SM.T @ basis)  # recomputed, so that rounding errors do not accumulate
    return ritz_vectors


def orthonormalize(vectors: Tensor, basis: Tensor) -> Tensor:
    """The vectors made orthonormal to each other and to an orthonormal basis; vectors in the span of the basis are replaced
    by arbitrary ones."""
    for _ in range(2):  # once is not enough in float32
        vectors = vectors - basis @ (basis.T @ vectors)
        vectors = torch.linalg.qr(vectors).Q
    return vectors

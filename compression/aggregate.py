"""The weighted mean of low-rank matrices as a low-rank matrix, without ever making a dense one.

A server that averages updates reconstructs them first: factors of different clients cannot be averaged, for the mean of
products is not the product of means, and singular vectors have arbitrary signs. Where the mean itself is to travel on as
factors, stacking the clients' factors gives it exactly, [p_1 A_1 ... p_n A_n] [B_1; ...; B_n] (FLoRA, arXiv:2409.05976),
and QR of both stacks and an SVD of the small matrix between them gives its best approximation of a smaller rank. Worth it
while the ranks together are well below o and i.

Shapes: o = outputs, i = inputs, k = rank of one client, K = of all together, q = rank asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..core.errors import CodecError
from .lowrank import canonical


def mean_factors(clients: Iterable[tuple[float, Tensor, Tensor]], rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Return factors (o, q) and (q, i) of the weighted mean of clients' products.

    Parameters
    ----------
    clients : iterable of (float, Tensor, Tensor)
        Weight, (o, k) and (k, i) of each; ranks may differ.
    rank : int, optional
        q, at most; absent: all that is needed for the mean to be exact, at most min(o, i, K).

    Raises
    ------
    CodecError
        If there are no clients, their shapes do not fit, their weights are not positive, or `rank` is below 1.
    """
    received = list(clients)
    if not received or any(weight <= 0 for weight, _, _ in received) or (rank is not None and rank < 1):
        raise CodecError("a mean of factors needs clients, positive weights and a rank of at least 1")
    shapes = {(left_ok.shape[0], right_ki.shape[1]) for _, left_ok, right_ki in received}
    if len(shapes) > 1 or any(left_ok.shape[1] != right_ki.shape[0] for _, left_ok, right_ki in received):
        raise CodecError(f"factors of clients do not fit together: their products are {sorted(shapes)}")
    total = sum(weight for weight, _, _ in received)
    left_oK = torch.cat([left_ok.double() * (weight / total) for weight, left_ok, _ in received], 1)
    right_Ki = torch.cat([right_ki.double() for _, _, right_ki in received])
    basis_oK, left_KK = torch.linalg.qr(left_oK)
    right_KK = torch.linalg.qr(right_Ki.T, mode="r").R
    turn_KK, sigma_K, _ = torch.linalg.svd(left_KK @ right_KK.T, full_matrices=False)
    directions_oq = canonical(basis_oK @ turn_KK[:, : rank or len(sigma_K)])
    return directions_oq, (directions_oq.T @ left_oK) @ right_Ki

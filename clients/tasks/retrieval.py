"""Retrieval across modalities: ranks, recalls, and what chance gives. Ties count against whoever is judged.

Shapes: Q = queries, C = candidates, N = samples, V = views of a sample in one modality, D = width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

KS = (1, 5, 10)


def ranks(scores_QC: Tensor, query_N: Tensor, candidate_N: Tensor) -> Tensor:
    """Return the rank, from 1, of each query's best correct candidate; wrong candidates of equal score come first.

    Parameters
    ----------
    scores_QC : Tensor
        Higher is nearer.
    query_N, candidate_N : Tensor of int64, shapes (Q,) and (C,)
        Which sample each belongs to; correct is who belongs to the same.

    Returns
    -------
    Tensor of int64, shape (Q,)
    """
    correct_QC = query_N[:, None] == candidate_N
    best_Q = scores_QC.masked_fill(~correct_QC, -math.inf).amax(1)
    return 1 + ((scores_QC >= best_Q[:, None]) & ~correct_QC).sum(1)


def recalls(a_ND: Tensor, b_MD: Tensor, a_N: Tensor, b_M: Tensor) -> dict[int, float]:
    """Return recall at each of `KS` of one modality's embeddings as queries among the other's: a share of the queries.

    Raises
    ------
    ValueError
        If there are not more candidates than the largest k: that recall would be certain.
    """
    if len(b_MD) <= max(KS):
        raise ValueError(f"{len(b_MD)} candidates: recall at {max(KS)} needs more")
    rank_N = ranks(a_ND @ b_MD.T, a_N, b_M)
    return {k: (rank_N <= k).double().mean().item() for k in KS}


def chance(candidates: int, correct: int, k: int) -> float:
    """Return the probability that at least one of `correct` candidates is among the first k of a random order."""
    return 1 - math.comb(candidates - correct, k) / math.comb(candidates, k)


def judged(embeddings: dict[str, Tensor]) -> dict[str, float]:
    """Judge the match of every pair of modalities, both ways.

    Parameters
    ----------
    embeddings : dict of str to Tensor, shape (N, V, D)
        By modality, of unit length.

    Returns
    -------
    dict
        `recall_at_<k>_<a>_to_<b>` for every direction; and, as means over the pairs of modalities, `retrieval_sum_1`
        (recall at 1, both ways, added: 0 to 2), `retrieval_sum_1_5_10` (recall at 1, 5 and 10, both ways, added: 0 to 6),
        `retrieval_chance`, what the latter is by chance, and `retrieval_gallery`, the samples judged.
    """
    found: dict[str, float] = {}
    names, samples = list(embeddings), len(next(iter(embeddings.values())))
    sums, lucks = dict.fromkeys(KS, 0.0), 0.0
    for a, b in ((a, b) for a in names for b in names if a != b):
        views_a, views_b = embeddings[a].shape[1], embeddings[b].shape[1]
        owners = [torch.arange(samples).repeat_interleave(views) for views in (views_a, views_b)]
        for k, recall in recalls(embeddings[a].flatten(0, 1), embeddings[b].flatten(0, 1), *owners).items():
            found[f"recall_at_{k}_{a}_to_{b}"] = recall
            sums[k] += recall
            lucks += chance(samples * views_b, views_b, k)
    pairs = len(names) * (len(names) - 1) / 2
    return found | {
        "retrieval_sum_1": sums[1] / pairs,
        "retrieval_sum_1_5_10": sum(sums.values()) / pairs,
        "retrieval_chance": lucks / pairs,
        "retrieval_gallery": float(samples),
    }

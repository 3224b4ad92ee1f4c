"""Labels of one modality: how far predictions of classes, numbers and functions are off.

Numbers are fitted standardised, by the mean squared error. Functions are fitted much as in DeepGate2 (Shi et al.,
arXiv:2305.16373 and its code): the distance of two embeddings, 1 - cos, is to follow the share of patterns on which the
functions differ. Both are brought to mean 0 and deviation 1. There the pairs are nodes of one circuit with about the same
probability of a 1, the model can tell probabilities already, and the loss is the mean absolute difference; here they are all
pairs of a batch, the model starts from nothing, and the difference is squared: by absolute ones it learnt nothing of netlists.

Shapes: N = samples, B = batch, D = width, V = texts of a sample, P = patterns, K = classes, Q = pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.silos import Number

SAME_PROBABILITY = 0.05
"""How far the probabilities of a 1 of two functions may differ for `spearman_balanced`, DeepGate2's own choice."""


def standardised(labels_N: Tensor, number: Number) -> Tensor:
    """Return what a head is to say of numbers, float32."""
    values_N = labels_N.log() if number.log else labels_N
    return ((values_N - number.mean) / number.deviation).float()


def likeness(embedding_BD: Tensor, truth_BP: Tensor) -> Tensor:
    """Return how badly distances follow those of functions over all pairs of a batch: about 2 (1 - r), r Pearson's.

    It is 0 for fewer than three samples, whose distances cannot vary.
    """
    if len(embedding_BD) < 3:
        return embedding_BD.sum() * 0
    return F.mse_loss(_normal(_apart(F.normalize(embedding_BD, dim=1))), _normal(_differing(truth_BP)))


def _normal(values_Q: Tensor) -> Tensor:
    return (values_Q - values_Q.mean()) / values_Q.std().clamp_min(1e-6)


def _apart(embedding_ND: Tensor) -> Tensor:
    """Return 1 - cos of all pairs of embeddings of unit length, shape (Q,)."""
    first, second = torch.triu_indices(len(embedding_ND), len(embedding_ND), 1)
    return 1 - (embedding_ND @ embedding_ND.T)[first, second]


def _differing(truth_NP: Tensor) -> Tensor:
    """Return the share of patterns on which functions differ, for all pairs, shape (Q,)."""
    first, second = torch.triu_indices(len(truth_NP), len(truth_NP), 1)
    bits_NP = truth_NP.float()
    ones_N = bits_NP.sum(1)
    return ((ones_N[:, None] + ones_N - 2 * bits_NP @ bits_NP.T) / truth_NP.shape[1])[first, second]


def judge_classes(logits_NK: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Return `accuracy` and `loss`."""
    hits_N = logits_NK.argmax(1) == labels_N
    return {"loss": F.cross_entropy(logits_NK, labels_N).item(), "accuracy": hits_N.double().mean().item()}


def judge_numbers(said_N: Tensor, labels_N: Tensor, number: Number) -> dict[str, float]:
    """Return how far numbers are off.

    Returns
    -------
    dict
        `mae`, the mean absolute error in the numbers' own unit; `mae_constant`, that of always saying the mean of those trained
        on (of their logarithms, where these are learnt); `mape`, the mean error as a share of the right number, where it is
        above 0; `r2`, the share of the variance that is explained, of logarithms where these are learnt; `loss`.
    """
    right_N = standardised(labels_N, number).double()
    values_N = _restored(said_N.double(), number)
    found = {
        "loss": F.mse_loss(said_N.double(), right_N).item(),
        "mae": (values_N - labels_N).abs().mean().item(),
        "mae_constant": (_restored(torch.zeros_like(right_N), number) - labels_N).abs().mean().item(),
    }
    if labels_N.min() > 0:
        found["mape"] = (values_N / labels_N - 1).abs().mean().item()
    if len(right_N) > 1 and (spread := (right_N - right_N.mean()).square().sum().item()) > 0:
        found["r2"] = 1 - (said_N - right_N).square().sum().item() / spread
    return found


def _restored(said_N: Tensor, number: Number) -> Tensor:
    values_N = said_N * number.deviation + number.mean
    return values_N.exp() if number.log else values_N


def judge_functions(embedding_NVD: Tensor, texts_NVL: Tensor, truth_NP: Tensor) -> dict[str, float]:
    """Return how well distances of embeddings say how far functions are apart.

    Parameters
    ----------
    embedding_NVD : Tensor
        Of unit length; texts of a sample are different writings of one function.
    texts_NVL : Tensor of int64
        What was embedded.
    truth_NP : Tensor of bool

    Returns
    -------
    dict
        `spearman`, the rank correlation between 1 - cos and the share of patterns on which functions differ, over all pairs of
        samples' first texts; `spearman_balanced`, that of pairs whose probabilities of a 1 differ by at most
        `SAME_PROBABILITY`; and, where samples have several texts, `equivalence_auc`, the probability that two writings of one
        function, where they are not the same, are nearer to each other than those of two functions in equally many tokens.
    """
    apart_Q, differing_Q = _apart(embedding_NVD[:, 0]), _differing(truth_NP)
    found = _correlated("spearman", apart_Q, differing_Q)
    first, second = torch.triu_indices(len(truth_NP), len(truth_NP), 1)
    ones_N = truth_NP.double().mean(1)
    like_Q = (ones_N[first] - ones_N[second]).abs() <= SAME_PROBABILITY
    found |= _correlated("spearman_balanced", apart_Q[like_Q], differing_Q[like_Q])
    if embedding_NVD.shape[1] > 1:
        rewritten_N = (texts_NVL[:, 0] != texts_NVL[:, 1]).any(1)
        same = 1 - (embedding_NVD[:, 0] * embedding_NVD[:, 1]).sum(1)[rewritten_N]
        tokens_N = texts_NVL[:, 0].count_nonzero(1)
        other = apart_Q[tokens_N[first] == tokens_N[second]]
        if len(same) and len(other):
            nearer = (same[:, None] < other).double() + (same[:, None] == other).double() / 2
            found["equivalence_auc"] = nearer.mean().item()
    return found


def _correlated(name: str, a_Q: Tensor, b_Q: Tensor) -> dict[str, float]:
    """Return Spearman's rank correlation, by name, where both vary."""
    from scipy.stats import spearmanr

    if len(a_Q) < 3 or not a_Q.std() > 0 or not b_Q.std() > 0:
        return {}
    return {name: float(spearmanr(a_Q.numpy(), b_Q.numpy()).statistic)}

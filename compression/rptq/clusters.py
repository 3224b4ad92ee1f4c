"""Clusters of channels with similar ranges.

Source: RPTQ's published code: k-means on the raw largest and smallest value of each channel, 10 starts, seed 0. Ours: labels
in place of permutations (an aggregate of differently permuted tensors would be meaningless, and labels are smaller); clusters
are numbered by their range, so that equal clusterings have equal labels; a stable order within a cluster; never more clusters
than distinct channels.

Shapes: c = channels, f = features, k = clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def cluster(features_cf: Tensor, clusters: int) -> Tensor:
    """Label channels, 0 for the cluster of the smallest range.

    Parameters
    ----------
    features_cf : Tensor
        The first half of the columns are greatest values, the second half least ones.
    clusters : int
        At most so many; fewer where fewer distinct channels are.

    Returns
    -------
    Tensor of int64, shape (c,)
    """
    points_cf = features_cf.double().numpy()
    distinct = len(np.unique(points_cf, axis=0))
    if clusters == 1 or distinct == 1:
        return torch.zeros(len(points_cf), dtype=torch.int64)
    if clusters >= distinct:
        labels_c = np.unique(points_cf, axis=0, return_inverse=True)[1].reshape(-1)
    else:
        from sklearn.cluster import KMeans

        labels_c = KMeans(clusters, n_init=10, random_state=0).fit(points_cf).labels_
    return _by_range(torch.from_numpy(labels_c.astype(np.int64)), features_cf)


def _by_range(labels_c: Tensor, features_cf: Tensor) -> Tensor:
    """Number clusters by ascending range, equal ones by their first channel."""
    half = features_cf.shape[1] // 2
    high_c, low_c = features_cf[:, :half].amax(1), features_cf[:, half:].amin(1)
    order = []
    for label in labels_c.unique().tolist():
        members = torch.nonzero(labels_c == label).flatten()
        order.append((float(high_c[members].max() - low_c[members].min()), int(members[0]), label))
    rank = {label: n for n, (_, _, label) in enumerate(sorted(order))}
    return torch.tensor([rank[label] for label in labels_c.tolist()], dtype=torch.int64)


def cluster_heads(features_cf: Tensor, heads: int, clusters: int) -> Tensor:
    """Label the channels of each head apart; labels start at 0 in each.

    Parameters
    ----------
    features_cf : Tensor
        Channels of a head are consecutive.
    """
    return torch.cat([cluster(one_cf, clusters) for one_cf in features_cf.chunk(heads)])


def permutation(labels_c: Tensor, heads: int) -> Tensor:
    """Return the order that puts the clusters of each head side by side, stable within a cluster: int64, shape (c,)."""
    size = len(labels_c) // heads
    orders = [head.argsort(stable=True) + n * size for n, head in enumerate(labels_c.chunk(heads))]
    return torch.cat(orders)

"""Pictures of what a matched model has learned: retrieval examples, and the space that its modalities share.

Shapes: N = samples, D = width, C, H, W = channels, height, width.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from .data.multimodal import Samples
from .models.towers import Towers
from .tasks.multimodal import embed_all

QUERIES, SHOWN = 8, 5
METADATA: dict[str, Any] = {"Software": None}  # the same model gives the same bytes


def pictures(model: Towers, samples: Samples) -> dict[str, bytes]:
    """Return `retrieval.png`, where one modality is in pixels, and `space.png`, for the first two modalities by name."""
    embedded = {modality: view[:, 0] for modality, view in embed_all(model, samples).items()}
    first, second = sorted(embedded)[:2]
    found = {"space.png": _png(space(embedded[first], embedded[second], first, second))}
    if samples.views[first].dtype.is_floating_point:
        scores_NN = embedded[second] @ embedded[first].T
        found["retrieval.png"] = _png(examples(samples.views[first], scores_NN, second))
    return found


def principal_axes(x_ND: Tensor) -> Tensor:
    """Return the first two principal components' coordinates, shape (N, 2); signs make the largest loading positive."""
    centred = (x_ND - x_ND.mean(0)).double()
    _, _, axes_DD = torch.linalg.svd(centred, full_matrices=False)
    axes_2D = axes_DD[:2]
    strongest = axes_2D.abs().argmax(1, keepdim=True)
    return centred @ (axes_2D * axes_2D.gather(1, strongest).sign()).T


def space(a_ND: Tensor, b_ND: Tensor, a: str, b: str) -> Figure:
    """Draw both modalities' embeddings on their first two principal axes; a line joins the two views of a sample."""
    points = principal_axes(torch.cat([a_ND, b_ND])).numpy()
    halves = points[: len(a_ND)], points[len(a_ND) :]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    lines = np.stack([*halves, np.full_like(halves[0], np.nan)], axis=1).reshape(-1, 2)
    axes.plot(*lines.T, color="0.8", linewidth=0.4, zorder=0)
    for half, name, colour in zip(halves, (a, b), ("tab:blue", "tab:orange"), strict=True):
        axes.scatter(half[:, 0], half[:, 1], s=7, color=colour, label=name)
    cosine = float((a_ND * b_ND).sum(1).mean())
    axes.set(xlabel="first principal axis", ylabel="second", title=f"{len(a_ND)} samples, mean cosine of partners {cosine:.2f}")
    axes.legend(frameon=False)
    return figure


def examples(x_NCHW: Tensor, scores_NN: Tensor, by: str) -> Figure:
    """Draw, for a few queries, the right image and the first ones found; the right one is framed wherever it is.

    Parameters
    ----------
    scores_NN : Tensor
        Of queries (rows) and images; partners have equal numbers.
    by : str
        The queries' modality.
    """
    chosen = np.linspace(0, len(x_NCHW) - 1, min(QUERIES, len(x_NCHW))).astype(int)
    figure = Figure(figsize=(1.1 * (SHOWN + 1), 1.15 * len(chosen) + 0.5), layout="constrained")
    grid = figure.subplots(len(chosen), SHOWN + 1, squeeze=False)
    for row, query in zip(grid, chosen.tolist(), strict=True):
        order = scores_NN[query].argsort(descending=True).tolist()
        _draw(row[0], x_NCHW[query], f"query; right one {order.index(query) + 1}.", framed=False)
        for place, number in enumerate(order[:SHOWN]):
            _draw(row[1 + place], x_NCHW[number], f"{place + 1}.", framed=number == query)
    figure.suptitle(f"Images found by {by}", fontsize=9)
    return figure


def _draw(axes: Axes, image_CHW: Tensor, title: str, framed: bool) -> None:
    axes.imshow(image_CHW.add(1).div(2).clamp(0, 1).permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=6, pad=2)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(color="tab:green" if framed else "0.85", linewidth=3 if framed else 0.5)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata=METADATA)
    return buffer.getvalue()

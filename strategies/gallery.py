"""A picture of some synthetic images: one row a client, one column a class."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROWS, SIDE, LEAST_PIXELS = 12, 2, 48
PAPER = 255


def gallery(images_NCHW: Tensor, labels_N: Tensor, clients_N: Tensor, classes: int) -> bytes:
    """Draw a PNG with up to four images of each client and class, for at most twelve clients.

    Parameters
    ----------
    images_NCHW : Tensor of uint8, shape (N, C, H, W)
        One or three channels.
    labels_N, clients_N : Tensor of int64, shape (N,)
    """
    height, width = images_NCHW.shape[2:]
    zoom = max(1, LEAST_PIXELS // min(height, width))
    cell_h, cell_w = SIDE * height * zoom + 6, SIDE * width * zoom + 6
    clients = clients_N.unique()[:ROWS].tolist()
    sheet = np.full((len(clients) * cell_h, classes * cell_w, 3), PAPER, np.uint8)
    for row, client in enumerate(clients):
        for label in range(classes):
            shown = torch.nonzero((clients_N == client) & (labels_N == label)).flatten()[: SIDE**2].tolist()
            for place, index in enumerate(shown):
                top = row * cell_h + place // SIDE * height * zoom + 2
                left = label * cell_w + place % SIDE * width * zoom + 2
                pixels = images_NCHW[index].permute(1, 2, 0).expand(-1, -1, 3).numpy()
                sheet[top : top + height * zoom, left : left + width * zoom] = pixels.repeat(zoom, 0).repeat(zoom, 1)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG", optimize=True)
    return file.getvalue()

"""Files laid out like the npm packages of emoji, with drawings of our own: coloured shapes that say what their words say."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

VENDORS = ("twitter", "apple", "google", "facebook")
COLOURS = ("red", "green", "blue", "orange", "purple", "brown", "pink", "gray")
SHAPES = ("square", "disc", "stripe", "triangle")
SIZES = ("small", "large")


def write_emoji(folder: Path) -> Path:
    """Write 64 concepts, their subcategory is the shape, and a few entries that must be left out; return the folder."""
    entries, described = [], []
    for number, (colour, shape, size) in enumerate(product(COLOURS, SHAPES, SIZES)):
        code = f"{0x1F300 + number:X}"
        entries.append(_entry(code, shape))
        described.append({"hexcode": code, "label": f"{size} {colour} {shape}", "tags": [colour, shape, "drawing", size]})
        for style, vendor in enumerate(VENDORS):
            _draw(_path(folder, vendor, f"{code.lower()}.png"), colour, shape, 24 if size == "small" else 44, style)
    entries.append(_entry("1F1E6", "country-flag"))
    entries.append({**_entry("1F3FB", "skin"), "category": "Component"})
    entries.append({**_entry("1F9FF", "square"), "has_img_apple": False})
    described += [{"hexcode": code, "label": f"odd {code}", "tags": []} for code in ("1F1E6", "1F3FB", "1F9FF")]
    for vendor in VENDORS:
        (folder / f"emoji-datasource-{vendor}" / "emoji.json").write_text(json.dumps(entries))
    words = folder / "emojibase-data" / "en" / "data.json"
    words.parent.mkdir(parents=True)
    words.write_text(json.dumps(described))
    return folder


def _entry(code: str, subcategory: str) -> dict:
    drawn = {f"has_img_{vendor}": True for vendor in VENDORS}
    image = f"{code.lower()}.png"
    return {"unified": code, "non_qualified": None, "image": image, "category": "Shapes", "subcategory": subcategory, **drawn}


def _path(folder: Path, vendor: str, image: str) -> Path:
    path = folder / f"emoji-datasource-{vendor}" / "img" / vendor / "64" / image
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _draw(path: Path, colour: str, shape: str, side: int, style: int) -> None:
    """Draw a concept as one vendor does: all shift it and outline it in their own way."""
    image = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(image)
    left = (64 - side) // 2 + 2 * style
    box = (left, left, left + side, left + side)
    ink = {"fill": colour, "outline": "black", "width": style}
    if shape == "square":
        draw.rectangle(box, **ink)
    elif shape == "disc":
        draw.ellipse(box, **ink)
    elif shape == "stripe":
        draw.rectangle((left, 28, left + side, 36), **ink)
    else:
        draw.polygon([(left, left + side), (left + side, left + side), (left + side // 2, left)], fill=colour, outline="black")
    image.save(path)

"""Any labelled image data set of the Hugging Face hub, by name or from a local copy.

A local copy is a folder that `datasets` saved with `save_to_disk`, or one it can read: Parquet files, or a folder of
images a class. Images keep their size, which must be the same for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import DataError
from .options import DataOptions
from .source import Pool

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

GREY = {"1", "L"}
COLOUR = {"RGB", "RGBA", "RGBX", "P", "PA", "LA", "CMYK", "YCbCr", "HSV", "LAB"}


def files(options: DataOptions) -> list[Path]:
    """Return all files of the local copy; none for a data set that is fetched by name."""
    if options.path is None:
        return []
    folder = Path(options.path).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.path = {options.path!r}: no such folder; give one with a saved data set or Parquet files")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def load(options: DataOptions, clients: int, seed: int) -> Pool:
    """Return the samples of all chosen splits."""
    from datasets import concatenate_datasets

    origin = str(options.dataset or options.path)
    splits = _open(options)
    unknown = [name for name in options.splits or () if name not in splits]
    if unknown:
        raise DataError(f"data.splits: {origin} has no {unknown[0]!r}; choose from {', '.join(splits)}")
    merged = concatenate_datasets([splits[name] for name in options.splits or splits])
    image, label = _image_column(options, merged.features), _label_column(options, merged.features)
    labels_N, class_names = _labels(merged, label, origin)
    natural_ids_N = None if options.natural_id_column is None else _natural_ids(merged, options.natural_id_column, origin)
    return Pool(_images(merged, image, origin), labels_N, class_names, natural_ids_N).check(origin)


def _open(options: DataOptions) -> DatasetDict:
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    try:
        if options.path is None:
            if Path(str(options.dataset)).exists():  # `datasets` would take it for the set
                raise DataError(f"data.dataset = {options.dataset!r}: a file or folder here; give it as data.path")
            return load_dataset(options.dataset)
        folder = Path(options.path).expanduser()
        saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
        opened = load_from_disk(str(folder)) if saved else load_dataset(str(folder))
    except (OSError, ValueError) as error:
        field, value = ("path", options.path) if options.dataset is None else ("dataset", options.dataset)
        raise DataError(f"data.{field} = {value!r}: cannot be loaded: {error}") from None
    return DatasetDict({"all": opened}) if isinstance(opened, Dataset) else opened


def _image_column(options: DataOptions, features: Features) -> str:
    from datasets import Array2D, Array3D, Image

    candidates = [name for name, feature in features.items() if isinstance(feature, (Image, Array2D, Array3D))]
    return _choose("image_column", options.image_column, candidates, features)


def _label_column(options: DataOptions, features: Features) -> str:
    from datasets import ClassLabel, Value

    named = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    whole = [name for name, feature in features.items() if isinstance(feature, Value) and "int" in feature.dtype]
    candidates = [name for name in named or whole if name != options.natural_id_column]
    return _choose("label_column", options.label_column, candidates, features)


def _choose(field: str, given: str | None, candidates: list[str], features: Features) -> str:
    if given is not None:
        return _existing(field, given, features)
    if len(candidates) != 1:
        found = f"{' and '.join(candidates)} could be meant" if candidates else "no column looks like one"
        raise DataError(f"data.{field}: missing; {found}; choose from {', '.join(features)}")
    return candidates[0]


def _existing(field: str, column: str, features: Features) -> str:
    if column not in features:
        raise DataError(f"data.{field} = {column!r}: no such column; choose from {', '.join(features)}")
    return column


def _labels(rows: Dataset, column: str, origin: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class numbers and names; strings become classes in sorted order, whole numbers are classes 0 .. largest."""
    from datasets import ClassLabel

    values = _column(rows, column, origin)
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return values, tuple(feature.names)
    if values.dtype.kind in "UO":
        names, numbers = np.unique(values.astype(str), return_inverse=True)
        return numbers, tuple(names.tolist())
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            f"data.label_column = {column!r}: {origin} holds {feature} there; classes must be whole numbers or strings"
        )
    return values, tuple(str(number) for number in range(int(values.max()) + 1))


def _natural_ids(rows: Dataset, column: str, origin: str) -> np.ndarray:
    ids_N = _column(rows, _existing("natural_id_column", column, rows.features), origin)
    if ids_N.dtype.kind not in "iuUO":
        raise DataError(
            f"data.natural_id_column = {column!r}: {origin} holds {ids_N.dtype} there; strings or whole numbers are needed"
        )
    return ids_N


def _column(rows: Dataset, column: str, origin: str) -> np.ndarray:
    values = rows.select_columns([column]).with_format("arrow")[:][column]
    if values.null_count:
        missing = next(row for row, value in enumerate(values) if not value.is_valid)
        raise DataError(f"{origin}: column {column!r} has no value in {values.null_count} rows, the first being row {missing}")
    return values.to_numpy()


def _images(rows: Dataset, column: str, origin: str) -> np.ndarray:
    images_NCHW: np.ndarray | None = None
    for row, image in enumerate(rows.select_columns([column]).with_format(None)):
        image_CHW = _image(image[column], f"{origin}: image of row {row}")
        if images_NCHW is None:
            images_NCHW = np.empty((len(rows), *image_CHW.shape), np.uint8)
        if image_CHW.shape != images_NCHW.shape[1:]:
            raise DataError(
                f"{origin}: image of row {row} is {image_CHW.shape} (channels, height, width), row 0 is "
                f"{images_NCHW.shape[1:]}; all must be alike"
            )
        images_NCHW[row] = image_CHW
    return np.empty((0, 1, 1, 1), np.uint8) if images_NCHW is None else images_NCHW


def _image(image: Any, where: str) -> np.ndarray:
    """Return one image as bytes, channels first; pictures become grey or RGB, arrays may be HW, HWC or CHW."""
    if image is None:
        raise DataError(f"{where}: there is none")
    if hasattr(image, "mode"):
        if image.mode not in GREY | COLOUR:
            raise DataError(f"{where}: mode {image.mode}; pictures with 8 bits a channel are needed")
        image = image.convert("L" if image.mode in GREY else "RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and pixels.shape[2] in (1, 3):
        pixels = pixels.transpose(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise DataError(f"{where}: shape {pixels.shape}; one or three channels are needed")
    if pixels.min() < 0 or pixels.max() > 255 or not np.array_equal(pixels, pixels.astype(np.uint8)):
        raise DataError(f"{where}: pixels must be whole numbers 0 to 255")
    return pixels.astype(np.uint8)

"""Compress a model that is already there: a safetensors file, or a folder that transformers reads (GGUF files in it included).

What comes out is the report, layer by layer, and optionally the model as a receiver would have it. Nothing is downloaded,
nothing unpickled, no code of a checkpoint runs. Codecs that calibrate themselves get windows of a text, which a language
model is needed for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..core.errors import SpecError
from ..core.seeds import torch_stream
from .activations import run
from .chain import UploadOptions
from .codec import Calibration, Context
from .report import Report
from .wire import layout


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors; its module and tokenizer where transformers could make them."""

    tensors: dict[str, Tensor]
    module: nn.Module | None = None
    tokenizer: Any = None


def load(path: Path, gguf_file: str | None = None) -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, or a folder of transformers.
    gguf_file : str, optional
        The GGUF file in that folder to read, de-quantised; transformers needs the package `gguf` for that.

    Raises
    ------
    SpecError
        If there is nothing there that can be read.
    """
    if path.is_file():
        try:
            return Checkpoint(safetensors.torch.load_file(path))
        except safetensors.SafetensorError as error:
            raise SpecError(f"{path}: not a safetensors file ({error}); give one, or a transformers folder") from None
    if not path.is_dir():
        raise SpecError(f"{path}: not found; give a safetensors file or a transformers folder")
    import transformers

    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    where |= {"gguf_file": gguf_file} if gguf_file else {}
    try:
        config = transformers.AutoConfig.from_pretrained(path, **where)
        causal = gguf_file or any(name.endswith(("CausalLM", "LMHeadModel")) for name in config.architectures or ())
        make = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
        module = make.from_pretrained(path, dtype="auto", use_safetensors=None if gguf_file else True, **where).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **where) if causal else None
    except (OSError, ValueError, ImportError) as error:
        raise SpecError(f"{path}: transformers cannot read it: {str(error).splitlines()[0]}") from None
    return Checkpoint(dict(module.state_dict()), module, tokenizer)


def windows(checkpoint: Checkpoint, text: str, count: int, length: int, skip: int = 0) -> list[dict[str, Tensor]]:
    """Cut a text into inputs of a language model, with labels, so that its loss is the mean log loss of a token.

    Parameters
    ----------
    count, length : int
        Windows, and tokens in each.
    skip : int
        Windows to leave out at the text's start, so that others can be kept for evaluation.

    Raises
    ------
    SpecError
        If the checkpoint is no language model, or the text is too short.
    """
    if checkpoint.tokenizer is None:
        raise SpecError("the model is no causal language model with a tokenizer, so it cannot be given text")
    ids = torch.tensor(checkpoint.tokenizer(text, verbose=False)["input_ids"])
    cut = ids[skip * length : (skip + count) * length]
    if len(cut) < count * length:
        raise SpecError(
            f"the text has {len(ids)} tokens; {count} windows of {length} after {skip} need {(skip + count) * length}"
        )
    return [{"input_ids": window, "labels": window} for window in cut.reshape(count, 1, length)]


def language_loss(module: nn.Module, batch: Any) -> Tensor:
    """Return a language model's mean log loss of a token."""
    return run(module, batch).loss


def compress(
    checkpoint: Checkpoint,
    options: UploadOptions,
    batches: list[dict[str, Tensor]] | None = None,
    seed: int = 0,
) -> tuple[Report, dict[str, Tensor]]:
    """Encode a checkpoint's weights and decode them again.

    Parameters
    ----------
    options : UploadOptions
        With ``target = "weights"``.
    batches : list, optional
        What `windows` gives, for codecs that calibrate themselves.
    seed : int
        For codecs that draw random numbers.

    Returns
    -------
    Report
        Bytes and errors, by tensor.
    dict of str to Tensor
        The weights as a receiver has them.

    Raises
    ------
    SpecError
        If the codec needs a base, or to be calibrated and there is nothing to do that with.
    CodecError, CalibrationError
        As `Codec.encode`.
    """
    codec = options.build()
    if codec.target != "weights":
        raise SpecError(f"target = {codec.target!r}: a checkpoint has no earlier model; choose 'weights'")
    calibration = None
    if codec.needs_calibration:
        if checkpoint.module is None or not batches:
            raise SpecError(
                f"codec {' > '.join(codec.names)} calibrates itself: give a transformers folder of a language model, and a text"
            )
        # transformers' own `float` refuses models that came from a quantised file, also once they are de-quantised
        calibration = Calibration(nn.Module.float(checkpoint.module), batches, language_loss)
    buffers = frozenset(name for name, _ in checkpoint.module.named_buffers()) if checkpoint.module else frozenset()
    context = Context(generator=torch_stream(seed, "compress"), calibration=calibration, buffers=buffers)
    encoded = codec.encode(checkpoint.tensors, context)
    return encoded.report, codec.decode(encoded.blob, layout(checkpoint.tensors))


def compress_checkpoint(
    path: Path,
    options: UploadOptions,
    *,
    gguf_file: str | None = None,
    text: str | None = None,
    count: int = 8,
    length: int = 512,
    seed: int = 0,
    out: Path | None = None,
) -> Report:
    """Compress a checkpoint on disk: what `fedcosim compress` does.

    Parameters
    ----------
    path, gguf_file
        As `load`.
    options, seed
        As `compress`.
    text : str, optional
        To calibrate on, `count` windows of `length` tokens.
    out : Path, optional
        A safetensors file to write, with the weights as a receiver has them.

    Raises
    ------
    SpecError, CodecError, CalibrationError
        As `load`, `windows` and `compress`.
    """
    checkpoint = load(path, gguf_file)
    batches = windows(checkpoint, text, count, length) if text is not None else None
    report, decoded = compress(checkpoint, options, batches, seed)
    if out is not None:
        apart = {
            name: x.clone().contiguous() for name, x in decoded.items()
        }  # the file format refuses tensors that share memory
        safetensors.torch.save_file(apart, out, {"format": "pt"})
    return report

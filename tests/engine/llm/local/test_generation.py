"""Draws follow the model's distribution."""

from __future__ import annotations

import pytest

from engine.llm.local.generation import GenerationRequest, Sampler, nucleus


def test_sampling_follows_the_distribution() -> None:
    import torch

    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    rows = 4000
    sampler = Sampler([GenerationRequest((1,), 1, temperature=0.5, seed=seed) for seed in range(rows)], torch.device("cpu"))
    got = torch.bincount(sampler(logits.repeat(rows, 1), range(rows)), minlength=4) / rows
    assert torch.allclose(got, (logits / 0.5).softmax(-1), atol=0.03)


@pytest.mark.parametrize("spread", [0.01, 3.0])  # a nucleus of nearly all tokens, and one of a few
def test_the_nucleus_is_the_smallest_set_of_likeliest_tokens_with_the_share(spread: float) -> None:
    import torch

    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)) * spread
    for row, kept, share in zip(logits, nucleus(logits, torch.tensor([[0.1], [0.5], [0.9]])), (0.1, 0.5, 0.9), strict=True):
        ordered, order = row.softmax(-1).sort(descending=True)
        wanted = order[ordered.cumsum(-1) - ordered < share]
        assert set(kept.isfinite().nonzero()[:, 0].tolist()) == set(wanted.tolist())
        assert torch.equal(kept[wanted], row[wanted])

"""The causal transformer: who sees whom, the cache, and the ways to save work that must not change the answer."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.priors.blocks import CausalTransformer, KeyValueCache
from models.priors.spec import TransformerSpec

SETTINGS = TransformerSpec(width=16, num_layers=3, num_heads=2)
BATCH, COUNT = 3, 7


def make_body(settings: TransformerSpec = SETTINGS) -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(settings)


def make_tokens(count: int = COUNT) -> Tensor:
    return torch.randn(BATCH, count, SETTINGS.width, generator=torch.Generator().manual_seed(1))


def make_visible() -> Tensor:
    visible = torch.ones(BATCH, COUNT, dtype=torch.bool)
    visible[0, 3:5] = False
    visible[1, 0] = False
    return visible


def test_no_token_sees_a_later_one() -> None:
    body, tokens = make_body(), make_tokens()
    changed = tokens.clone()
    changed[:, 4] += 1
    before, after = body(tokens), body(changed)
    assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().amax(-1).min() > 1e-3


def test_padding_is_seen_by_itself_alone() -> None:
    body, tokens, visible = make_body(), make_tokens(), make_visible()
    changed = torch.where(visible[:, :, None], tokens, tokens + 1)
    before, after = body(tokens, visible), body(changed, visible)
    assert_close(after[visible], before[visible])
    assert before.isfinite().all()


def test_hiding_a_token_is_leaving_it_out() -> None:
    body, tokens = make_body(), make_tokens()
    visible = torch.ones(BATCH, COUNT, dtype=torch.bool)
    visible[:, 2] = False
    others = [0, 1, 3, 4, 5, 6]
    assert_close(body(tokens, visible)[:, others], body(tokens[:, others]))


def test_one_block_is_the_formula() -> None:
    settings = replace(SETTINGS, num_layers=1)
    body, x = make_body(settings), make_tokens()
    block = body.blocks[0]

    def rms(value: Tensor) -> Tensor:
        return value / (value.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()

    q, k, v = (part.unflatten(-1, (2, 8)) for part in (rms(x) @ block.qkv.weight.T).split(16, dim=-1))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    scores = scores.masked_fill(torch.ones(COUNT, COUNT).triu(1).bool(), float("-inf"))
    seen = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)
    x = x + seen @ block.attention_out.weight.T
    gate, value = (rms(x) @ block.feed_in.weight.T).split(64, dim=-1)
    x = x + (gate * gate.sigmoid() * value) @ block.feed_out.weight.T
    assert_close(body(make_tokens()), rms(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("visible", [None, make_visible()], ids=["all seen", "padding"])
@pytest.mark.parametrize("outputs", [1, 3, COUNT])
def test_last_outputs_are_the_tail_of_all(outputs: int, visible: Tensor | None) -> None:
    body, tokens = make_body(), make_tokens()
    few = body(tokens, visible, num_outputs=outputs)
    assert_close(few, body(tokens, visible)[:, -outputs:])


@pytest.mark.parametrize("visible", [None, make_visible()], ids=["all seen", "padding"])
@pytest.mark.parametrize("pieces", [[5, 2], [1] * COUNT, [3, 1, 3]])
def test_reading_in_pieces_is_reading_at_once(pieces: list[int], visible: Tensor | None) -> None:
    body, tokens = make_body(), make_tokens()
    cache = KeyValueCache(SETTINGS, BATCH, COUNT, tokens)
    outputs = []
    for size in pieces:
        piece = slice(cache.length, cache.length + size)
        outputs.append(body(tokens[:, piece], None if visible is None else visible[:, piece], cache))
        cache.keep(size)
    assert_close(torch.cat(outputs, dim=1), body(tokens, visible))


def test_tokens_that_are_not_kept_leave_no_trace() -> None:
    body, tokens = make_body(), make_tokens()
    cache = KeyValueCache(SETTINGS, BATCH, COUNT, tokens)
    assert body(tokens[:, :4], cache=cache, num_outputs=0).shape == (BATCH, 0, SETTINGS.width)
    cache.keep(4)
    first = body(tokens[:, 4:], cache=cache)
    body(tokens[:, 4:] * 2, torch.zeros(BATCH, 3, dtype=torch.bool), cache)
    assert_close(body(tokens[:, 4:], cache=cache), first, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shorter", [0, 2])
@pytest.mark.parametrize(
    "visible", [torch.ones(BATCH, COUNT, dtype=torch.bool), make_visible()], ids=["all", "padding"]
)
def test_rows_of_two_caches_below_each_other(visible: Tensor, shorter: int) -> None:
    """The lower cache has read fewer tokens; both go on with the same ones."""
    body, tokens = make_body(), make_tokens()
    caches, outputs = [], []
    for rows, first in ((slice(0, 2), 0), (slice(2, 3), shorter)):
        cache = KeyValueCache(SETTINGS, len(tokens[rows]), COUNT, tokens)
        seen = visible[rows, first:5]
        body(tokens[rows, first:5], None if seen.all() else seen, cache, num_outputs=0)
        cache.keep(5 - first)
        caches.append(cache)
        outputs.append(body(tokens[rows, first:], visible[rows, first:])[:, 5 - first :])
    joined = caches[0].joined_with(caches[1], 2)
    order = [0, 1, 2, 2]
    assert_close(body(tokens[order, 5:], cache=joined), torch.cat([*outputs, outputs[1]]))


def test_full_cache_is_reported() -> None:
    body, tokens = make_body(), make_tokens()
    cache = KeyValueCache(SETTINGS, BATCH, COUNT - 1, tokens)
    with pytest.raises(ValueError, match="7 tokens were to be read, but there is room for 6"):
        body(tokens, cache=cache)


def test_normalised_queries_and_keys_have_no_length() -> None:
    plain, normed = make_body(), make_body(replace(SETTINGS, qk_norm=True))
    tokens = make_tokens()
    for body, changes in ((plain, True), (normed, False)):
        before = body(tokens)
        with torch.no_grad():
            for block in body.blocks:
                block.qkv.weight[: 2 * SETTINGS.width] *= 3
        assert torch.allclose(body(tokens), before, atol=1e-4) != changes


def test_checkpointing_gives_the_same_gradients_for_a_second_pass() -> None:
    gradients, passes = [], []
    for checkpointing in (False, True):
        body = make_body(replace(SETTINGS, gradient_checkpointing=checkpointing)).train()
        calls: list[None] = []
        body.blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        body(make_tokens(), make_visible(), num_outputs=1).square().sum().backward()
        gradients.append([parameter.grad for parameter in body.parameters()])
        passes.append(len(calls))
    assert passes == [1, 2]
    assert_close(gradients[1], gradients[0])


def test_no_checkpointing_outside_of_training() -> None:
    body = make_body(replace(SETTINGS, gradient_checkpointing=True)).eval()
    calls: list[None] = []
    body.blocks[0].register_forward_pre_hook(lambda *_: calls.append(None))
    body(make_tokens()).sum().backward()
    assert len(calls) == 1


def test_width_must_divide_by_heads() -> None:
    with pytest.raises(ValueError, match="width: found 16: expected a multiple of num_heads, 3"):
        CausalTransformer(replace(SETTINGS, num_heads=3))

"""The decoder of codes: a cache changes nothing, a code sees only those before it, and the conditions reach all."""

import json

import pytest
import torch

from models.autoencoders.spec import AutoencoderNetwork, KLAutoencoderSpec
from models.decoders.registry import read_spec
from models.decoders.sampling import DecoderSampling
from models.decoders.vq_autoregressive.model import sample_codes, settings_of
from models.decoders.vq_autoregressive.spec import VQAutoregressiveSpec
from models.priors.blocks import KeyValueCache
from tests.specs import make_autoencoder_spec, make_spec

PLAIN = DecoderSampling()


def make(**fields):
    torch.manual_seed(0)
    autoencoder = make_autoencoder_spec(
        "vq", resolution=16, unshuffle=4, channels=(16,), blocks_per_level=1, latent_channels=3, attention=False,
        num_codes=8,
    )  # fmt: skip
    small = {"embed_dim": 12, "width": 32, "num_layers": 2, "num_heads": 2, "num_tokens": 2, "layout_channels": 4}
    return (
        make_spec(VQAutoregressiveSpec, autoencoder=autoencoder, **(small | {"layout_hidden": 16} | fields))
        .build()
        .eval()
    )


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def text():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(2))


def some_codes(batch=3):
    return torch.randint(0, 8, (batch, 16), generator=torch.Generator().manual_seed(3))


def logits_of(decoder, codes, embeddings, text=None):
    return decoder.transformer(codes, decoder._conditions(embeddings, text, guided=False))


@pytest.mark.parametrize("fields", [{}, {"layout_channels": 0}, {"text_dim": 6}])
@torch.no_grad()
def test_with_a_cache_the_logits_are_the_same(fields, embeddings, text):
    decoder, codes = make(**fields), some_codes()
    conditions = decoder._conditions(embeddings, text, guided=False)
    whole = decoder.transformer(codes, conditions)
    capacity = conditions.tokens.shape[1] + 16
    cache = KeyValueCache(settings_of(decoder.spec), 3, capacity, like=conditions.tokens)
    for position in range(16):
        before = codes[:, position - 1] if position else None
        stepwise = decoder.transformer.next_logits(before, position, conditions, cache)
        torch.testing.assert_close(stepwise, whole[:, position], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_code_is_predicted_from_those_before_it_alone(embeddings):
    decoder, codes = make(), some_codes()
    changed = codes.clone()
    changed[:, 9] = (codes[:, 9] + 1) % 8
    one, other = logits_of(decoder, codes, embeddings), logits_of(decoder, changed, embeddings)
    assert torch.equal(one[:, :10], other[:, :10])
    assert ((one - other)[:, 10:].abs().amax((0, 2)) > 1e-5).all()


@pytest.mark.parametrize("layout_channels", [0, 4])
@torch.no_grad()
def test_another_embedding_changes_every_position(layout_channels, embeddings):
    decoder, codes = make(layout_channels=layout_channels), some_codes(1)
    one, other = (logits_of(decoder, codes, z) for z in embeddings[:2].split(1))
    assert ((one - other).abs().amax((0, 2)) > 1e-4).all()


@torch.no_grad()
def test_another_text_changes_every_position_and_may_be_the_only_condition(embeddings, text):
    for fields in ({}, {"reads_image_embedding": False, "layout_channels": 0}):
        decoder, codes = make(text_dim=6, **fields), some_codes(1)
        one, other = (logits_of(decoder, codes, embeddings[:1], y) for y in text[:2].split(1))
        assert ((one - other).abs().amax((0, 2)) > 1e-4).all()
    assert torch.equal(
        logits_of(decoder, codes, embeddings[:1], text[:1]), logits_of(decoder, codes, embeddings[1:2], text[:1])
    )


def test_images_are_those_of_the_generated_codes(embeddings):
    decoder = make()
    codes = decoder.sample_codes(embeddings, [1, 2, 3], PLAIN)
    images = decoder.sample(embeddings, [1, 2, 3], PLAIN)
    assert images.shape == (3, 3, 16, 16)
    assert torch.equal(images, decoder.autoencoder.decode_codes(codes.view(3, 4, 4)).clamp(-1, 1))


@pytest.mark.parametrize("sampling", [PLAIN, DecoderSampling(guidance_scale=2.0, temperature=0.7, top_k=4)])
def test_an_image_does_not_depend_on_its_batch(sampling, embeddings):
    decoder = make()
    together = decoder.sample_codes(embeddings, [5, 6, 7], sampling)
    assert torch.equal(decoder.sample_codes(embeddings[1:2], [6], sampling)[0], together[1])
    assert not torch.equal(decoder.sample_codes(embeddings[1:2], [9], sampling)[0], together[1])


def test_guidance_scale_zero_ignores_the_conditions(embeddings, text):
    decoder, sampling = make(text_dim=6), DecoderSampling(guidance_scale=0.0)
    codes = decoder.sample_codes(embeddings[:2], [4, 4], sampling, text=text[:2])
    assert torch.equal(codes[0], codes[1])


def test_guidance_moves_the_logits_away_from_those_without_condition(embeddings):
    decoder = make(embed_dim=12)
    with torch.no_grad():
        decoder.transformer.head.weight.mul_(20)
    plain, guided = (
        decoder.sample_codes(embeddings, [1, 2, 3], DecoderSampling(guidance_scale=scale)) for scale in (1.0, 4.0)
    )
    assert not torch.equal(plain, guided)


def test_codes_are_sampled_by_their_probability():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(4000, 4)
    uniform = (torch.arange(4000) + 0.5) / 4000
    counts = torch.bincount(sample_codes(logits, uniform, PLAIN), minlength=4)
    assert (counts - torch.tensor([400, 800, 1200, 1600])).abs().max() <= 1
    kept = torch.bincount(sample_codes(logits, uniform, DecoderSampling(top_k=2)), minlength=4)
    assert kept[:2].sum() == 0
    assert abs(kept[3].item() - 4000 * 4 / 7) <= 1
    cold = sample_codes(logits, uniform, DecoderSampling(temperature=0.01))
    assert (cold == 3).all()


def test_the_loss_is_the_mean_cross_entropy_and_dropout_takes_the_conditions(embeddings, text):
    decoder, codes = make(text_dim=6, empty_probability=0.3), some_codes()
    known = torch.tensor([True, True, False])[:, None]
    given = {"blur": torch.zeros(3, 12), "text": torch.where(known, text, torch.nan)}
    out = decoder.transformer.loss(codes, embeddings, dropout=torch.full((3,), 0.9), **given)
    logits = logits_of(decoder, codes, embeddings, text)
    expected = -logits.log_softmax(-1).gather(2, codes[..., None])[..., 0].mean(1)
    torch.testing.assert_close(out["loss"][:2], expected[:2])
    assert (out["loss"][2] - expected[2]).abs() > 1e-6  # its text was not there
    dropped = decoder.transformer.loss(codes, embeddings, dropout=torch.zeros(3), **given)["loss"]
    other = decoder.transformer.loss(codes, -embeddings, dropout=torch.zeros(3), **given | {"text": -given["text"]})[
        "loss"
    ]
    assert torch.equal(dropped, other)


def test_rows_without_a_caption_may_hold_no_numbers(embeddings):
    decoder = make(text_dim=6)
    loss = decoder.transformer.loss(
        some_codes(),
        embeddings,
        blur=torch.zeros(3, 12),
        dropout=torch.full((3,), 0.9),
        text=torch.full((3, 6), torch.nan),
    )["loss"]
    loss.mean().backward()
    assert loss.isfinite().all()
    codes = [decoder.sample_codes(embeddings, [1, 2, 3], PLAIN, text=y) for y in (torch.full((3, 6), torch.nan), None)]
    assert torch.equal(*codes)
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in decoder.transformer.parameters())


def test_every_weight_learns(embeddings):
    decoder = make()
    random_inputs = {"blur": torch.zeros(3, 12), "dropout": torch.tensor([0.0, 0.5, 0.9])}
    decoder.transformer.loss(some_codes(), embeddings, **random_inputs)["loss"].mean().backward()
    assert [name for name, weight in decoder.transformer.named_parameters() if weight.grad is None] == []


def test_a_saved_decoder_gives_the_same_bits(embeddings):
    decoder = make(text_dim=6)
    decoder.set_embedding_statistics(torch.full((12,), 0.5), torch.full((12,), 2.0))
    copy = read_spec(json.loads(json.dumps(decoder.spec.to_dict()))).build().eval()
    assert copy.spec == decoder.spec
    copy.load_state_dict(decoder.state_dict())
    assert torch.equal(copy.sample(embeddings, [1, 2, 3], PLAIN), decoder.sample(embeddings, [1, 2, 3], PLAIN))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 30, "num_heads": 4}, r"CodeNetwork\.width: found 30: expected a multiple of num_heads, 4"),
        (
            {"reads_image_embedding": False},
            r"VQAutoregressiveSpec\.reads_image_embedding: found False: expected true where text_dim is 0",
        ),
        (
            {"reads_image_embedding": False, "text_dim": 6},
            r"VQAutoregressiveSpec\.network: found .*expected layout_channels 0 without image embedding",
        ),
    ],
)
def test_impossible_values_are_refused_by_name(fields, words):
    with pytest.raises(ValueError, match=words):
        make(**fields)


def test_codes_need_a_codebook():
    autoencoder = KLAutoencoderSpec(resolution=16, network=AutoencoderNetwork(channels=(16,)))
    with pytest.raises(ValueError, match=r"VQAutoregressiveSpec\.autoencoder: found .*expected one of kind vq"):
        VQAutoregressiveSpec(embed_dim=12, autoencoder=autoencoder)

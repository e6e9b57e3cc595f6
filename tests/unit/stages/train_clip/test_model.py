import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.scenes.captions import describe, read_caption
from models.scenes.vocabulary import COLORS, SHAPES
from stages.train_clip.config import SceneProbe, TrainClipConfig
from stages.train_clip.model import contrastive_loss
from stages.train_clip.probes import Encoders, fractions, probe_scenes, retrieval
from stages.training.config import BestConfig


def make_embeddings(num=6, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (F.normalize(torch.randn(num, dim, generator=generator), dim=-1) for _ in range(2))


def test_the_loss_is_the_mean_of_both_cross_entropies():
    z_image, z_text = make_embeddings()
    tokens = torch.arange(6)[:, None]
    outputs = contrastive_loss(z_image, z_text, tokens, torch.tensor(7.0))
    logits = 7.0 * (z_image.double() @ z_text.double().T).numpy()
    rows = -np.diag(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    columns = -np.diag(logits - np.log(np.exp(logits).sum(0, keepdims=True)))
    np.testing.assert_allclose(outputs["loss"].numpy(), (rows + columns) / 2, rtol=1e-5)
    assert outputs["loss"].shape == outputs["accuracy"].shape == (6,)


def test_pairs_of_the_same_caption_are_not_each_others_negatives():
    z_image, z_text = make_embeddings()
    z_text[1] = z_text[0]
    tokens = torch.tensor([0, 0, 2, 3, 4, 5])[:, None]
    scale = torch.tensor(7.0)
    masked = contrastive_loss(z_image, z_text, tokens, scale)["loss"]
    rest = [0, 2, 3, 4, 5]
    alone = 7.0 * z_image[0] @ z_text[rest].T
    by_image = -torch.log_softmax(alone, dim=0)[0]
    by_text = -torch.log_softmax(7.0 * z_text[0] @ z_image[rest].T, dim=0)[0]
    assert masked[0].item() == pytest.approx(((by_image + by_text) / 2).item(), rel=1e-5)
    assert masked[0] < contrastive_loss(z_image, z_text, torch.arange(6)[:, None], scale)["loss"][0]


def test_perfect_pairs_have_no_loss_and_full_accuracy():
    z = torch.eye(5)
    outputs = contrastive_loss(z, z, torch.arange(5)[:, None], torch.tensor(100.0))
    assert outputs["loss"].max() < 1e-6
    assert outputs["accuracy"].tolist() == [1.0] * 5


def test_retrieval_counts_any_pair_with_the_same_caption():
    z_image = torch.eye(4)
    z_text = torch.eye(4)[[1, 0, 2, 2]]
    found = fractions(retrieval(z_image, z_text, ["a", "a", "b", "c"]))
    assert found == {"retrieval_text_of_image": 0.75, "retrieval_image_of_text": 0.75}


def test_a_perfect_model_is_always_right_and_a_blind_one_is_at_chance():
    words = [*SHAPES, *COLORS]

    def texts(captions):
        vectors = torch.zeros(len(captions), len(words))
        for row, caption in enumerate(captions):
            for word in read_caption(caption).values():
                if word in words:
                    vectors[row, words.index(word)] = 1.0
        return F.normalize(vectors, dim=-1)

    def blind(images):
        return F.normalize(torch.ones(len(images), len(words)), dim=-1)

    found = fractions(probe_scenes(Encoders(blind, texts, 16), SceneProbe(num_images=96)))
    for name in found | retrieval(torch.eye(2), torch.eye(2), ["a", "b"]):
        TrainClipConfig.metric_names.check(BestConfig(metric=name, mode="highest"))
    assert set(found) == {
        f"{d}_{q}" for d in ("plain", "night") for q in ("zero_shot_shape", "zero_shot_color", "retrieval")
    }
    assert found["plain_zero_shot_shape"] == pytest.approx(1 / 6, abs=0.05)
    assert found["plain_zero_shot_color"] == pytest.approx(1 / 8, abs=0.05)
    assert describe({"shape": "ring"}) == "a ring"


def test_smoothed_labels_are_spread_over_the_pair_and_its_negatives_alone():
    z_image, z_text = make_embeddings()
    tokens = torch.tensor([0, 0, 2, 3, 4, 5])[:, None]  # the first two pairs have the same caption
    found = contrastive_loss(z_image, z_text, tokens, torch.tensor(7.0), label_smoothing=0.2)["loss"]
    rest = [0, 2, 3, 4, 5]
    target = torch.tensor([0.8 + 0.2 / 5, *[0.2 / 5] * 4])
    sides = ((z_image[0], z_text[rest]), (z_text[0], z_image[rest]))
    wanted = [-(target * torch.log_softmax(7.0 * own @ others.T, dim=0)).sum() for own, others in sides]
    assert found[0].item() == pytest.approx(float(sum(wanted)) / 2, rel=1e-5)


def test_label_smoothing_counts_only_where_there_is_any():
    plain = TrainClipConfig().identity()
    assert "label_smoothing" not in plain
    assert TrainClipConfig(label_smoothing=0.1).identity() == {**plain, "label_smoothing": 0.1}


def nearly_equal(num=64):
    """Pairs whose cosines differ by less than bf16 resolves near 1."""
    generator = torch.Generator().manual_seed(0)
    z_image, z_text = (
        F.normalize(torch.ones(num, 8) + 0.02 * torch.randn(num, 8, generator=generator), dim=-1) for _ in range(2)
    )
    return z_image, z_text


def test_retrieval_and_zero_shot_compare_in_float32_under_autocast():
    z_image, z_text = nearly_equal()
    captions = [str(number) for number in range(len(z_image))]

    def texts(captions):
        return z_text[[sum(map(ord, caption)) % len(z_text) for caption in captions]]

    encoders = Encoders(lambda images: z_image[: len(images)], texts, 16)
    exact = retrieval(z_image, z_text, captions) | probe_scenes(encoders, SceneProbe(num_images=60))
    with torch.autocast("cpu", torch.bfloat16):
        found = retrieval(z_image, z_text, captions) | probe_scenes(encoders, SceneProbe(num_images=60))
    for name, hits in exact.items():
        assert torch.equal(found[name], hits), name


def test_the_loss_is_that_of_float32_under_autocast():
    z_image, z_text = nearly_equal()
    tokens, scale = torch.arange(len(z_image))[:, None], torch.tensor(100.0)
    exact = contrastive_loss(z_image, z_text, tokens, scale)
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_loss(z_image, z_text, tokens, scale)
    torch.testing.assert_close(found, exact)

import numpy as np
import pytest
import torch
from PIL import Image

from stages.contract.errors import InputFault
from stages.encoders.clip import ClipEncoder
from stages.encoders.config import ClipConfig
from stages.encoders.open_clip_import import import_open_clip
from stages.formats.clips import ClipIdentity
from tests.factories import save_tiny_clip

TEXTS = ["a small red circle at the top left", "blue star"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [save_tiny_clip(root / "a", seed=0, embed_dim=16), save_tiny_clip(root / "b", seed=1, embed_dim=24)]


def make_encoder(*folders):
    return ClipEncoder(ClipConfig(models=[{"kind": "folder", "path": folder} for folder in folders]), device="cpu")


def make_images(num=5, size=40):
    return np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def embed_directly(folder, pixels, texts):
    open_clip = import_open_clip()
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(Image.fromarray(one)) for one in pixels]))
        return images, model.encode_text(tokenizer(texts))


def test_embeddings_are_those_of_open_clip_side_by_side(folders):
    encoder, pixels = make_encoder(*folders), make_images()
    images, texts = encoder.encode_images(pixels), encoder.encode_texts(TEXTS)
    direct = [embed_directly(folder, pixels, TEXTS) for folder in folders]
    assert encoder.block_dims == (16, 24)
    assert encoder.embed_dim == 40
    torch.testing.assert_close(images, torch.cat([one[0] for one in direct], dim=-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(texts, torch.cat([one[1] for one in direct], dim=-1), rtol=1e-5, atol=1e-5)
    assert images.dtype == torch.float32
    assert not torch.allclose(images.norm(dim=-1), torch.ones(5))


def test_models_have_only_equal_preprocessing_in_common(folders, tmp_path):
    smaller = save_tiny_clip(tmp_path / "smaller", seed=2, image_size=16)
    pixels, order = make_images(), [folders[0], smaller, folders[1]]
    direct = [embed_directly(folder, pixels, TEXTS)[0] for folder in order]
    torch.testing.assert_close(
        make_encoder(*order).encode_images(pixels), torch.cat(direct, dim=-1), rtol=1e-5, atol=1e-5
    )


def test_arrays_tensors_and_images_are_the_same_to_it(folders):
    encoder, pixels = make_encoder(folders[0]), make_images()
    by_array = encoder.encode_images(pixels)
    assert torch.equal(by_array, encoder.encode_images(torch.from_numpy(pixels)))
    assert torch.equal(by_array, encoder.encode_images([Image.fromarray(one) for one in pixels]))


def test_an_embedding_does_not_depend_on_its_neighbours(folders):
    encoder, pixels = make_encoder(folders[0]), make_images()
    alone = torch.cat([encoder.encode_images(pixels[i : i + 1]) for i in range(len(pixels))])
    torch.testing.assert_close(encoder.encode_images(pixels), alone, rtol=1e-5, atol=1e-5)


def test_nothing_gives_an_empty_batch(folders):
    encoder = make_encoder(*folders)
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, 40)


def test_words_are_reported_apart(folders):
    encoder = make_encoder(folders[0])
    red, blue, capital = encoder.encode_texts(["a red ring", "a blue ring", "A Red RING"])
    assert torch.equal(red, capital)
    assert not torch.allclose(red, blue)


def test_the_digest_is_of_the_weights_not_of_the_path(folders, tmp_path):
    same = save_tiny_clip(tmp_path / "elsewhere", seed=0, embed_dim=16)
    first, copy, other = (make_encoder(folder).identities.models[0] for folder in (folders[0], same, folders[1]))
    assert first.digest == copy.digest != other.digest
    assert first == ClipIdentity(reference=str(folders[0]), digest=first.digest, embed_dim=16, image_size=32)


def test_floating_point_arrays_are_refused(folders):
    with pytest.raises(ValueError, match=r"float32\[8, 8, 3\]"):
        make_encoder(folders[0]).encode_images(np.zeros((1, 8, 8, 3), dtype=np.float32))


def test_unknown_weights_list_those_there_are():
    config = ClipConfig(models=[{"kind": "pretrained", "name": "ViT-B-16", "tag": "opanai"}])
    with pytest.raises(InputFault, match=r"clip\.models\[0\]\.tag: .*'opanai' for ViT-B-16 \(nearest: openai"):
        ClipEncoder(config)


def test_a_damaged_folder_is_named(folders, tmp_path):
    folder = save_tiny_clip(tmp_path / "damaged")
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(InputFault, match=r"clip\.models\[0\]: open_clip cannot load .*damaged"):
        make_encoder(folder)

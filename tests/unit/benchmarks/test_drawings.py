import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.drawings import Options, generate_sets, measure, source_of, table_of
from benchmarks.drawings_sides.features import EfficientNetFeatures
from benchmarks.drawings_sides.ranks import figures_of, ranks_of
from benchmarks.drawings_sides.sheet import write_sheet
from benchmarks.drawings_sides.truth import read_truth
from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from pipeline.errors import UsageError
from stages.download_shards.config import DrawingsSource
from stages.encoders.config import ClipConfig, FolderClip
from stages.inference.loading import TrainedModels, load_text_to_image
from stages.inference.sampling import SamplingSettings
from tests.factories import make_record, save_tiny_clip, save_tiny_decoder, save_tiny_prior
from tests.icon_packages import write_packages


@pytest.fixture
def truth(tmp_path):
    source = {"kind": "drawings", "path": write_packages(tmp_path / "in", 12), "sets": ["openmoji"], "resolution": 16}
    return read_truth(DrawingsSource(**source, captions="none", concepts="seen", held_out=0.3))


def test_ranks_are_those_of_the_truth_and_ties_score_nothing():
    gallery = torch.eye(4) + 0.1
    found = torch.stack([gallery[2], gallery[2], gallery.mean(0), 2 * gallery[0] + gallery[1]])
    assert ranks_of(found, gallery, [2, 0, 1, 1]).tolist() == [1, 4, 4, 2]
    assert figures_of(torch.tensor([1, 3, 7, 20])) == {"R@1": 0.25, "R@5": 0.5, "R@10": 0.75, "median rank": 5.0}


def test_the_truth_is_all_common_concepts_of_the_artist_seen_or_held_out(truth):
    assert len(truth.names) == 12  # without the drawing that this artist alone has
    assert sorted([*truth.seen, *truth.held_out]) == list(range(12))
    assert truth.held_out
    assert truth.seen != sorted(truth.seen)
    assert truth.images.shape == (12, 16, 16, 3)
    assert [work.license for work in truth.works] == ["CC BY-SA 4.0"]


def test_the_sheet_names_works_and_licences_in_the_image_and_in_its_text(truth, tmp_path):
    sets = {name: truth.images[:3] for name in ("ours", "no prior")}
    write_sheet(tmp_path / "sheet.png", truth, [([0, 1, 2], sets), ([3, 4, 5], sets)])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * 192
        assert "CC BY-SA 4.0" in sheet.info["Copyright"]


def test_features_of_efficientnet_distinguish_icons(truth):
    features = EfficientNetFeatures()
    found = features(truth.images[:4])
    assert found.shape == (4, 1280)
    noisy = np.clip(truth.images[:4].astype(int) + np.random.default_rng(0).integers(-8, 9, (4, 16, 16, 3)), 0, 255)
    assert ranks_of(features(noisy.astype(np.uint8)), found, [0, 1, 2, 3]).tolist() == [1, 1, 1, 1]


def test_the_table_shows_the_spread_over_runs():
    figures = {name: {"R@1": 0.1, "R@5": 0.2, "R@10": 0.3, "median rank": 9.0} for name in ("ours", "no prior")}
    figures |= {name: figures["ours"] for name in ("unrelated", "ceiling")}
    run = {"run": "a", "drawings": 12, "works": [], "held out": {"prompts": 4, "EfficientNet-Lite0": figures}}
    assert table_of([run]).row_count == 4
    assert "0.100 ± 0.000" in list(table_of([run, run]).columns[3].cells)


def test_a_system_is_measured_on_seen_and_held_out_concepts_beside_its_controls(tmp_path):
    clip = save_tiny_clip(tmp_path / "clip")
    clips = ClipConfig(models=(FolderClip(kind="folder", path=clip),))
    settings = SamplingSettings(PriorSampling(num_steps=2), DecoderSampling(num_steps=2))
    prior, decoder = save_tiny_prior(tmp_path / "prior", clip), save_tiny_decoder(tmp_path / "decoder", clip)
    system = load_text_to_image(TrainedModels(clips, prior, decoder), settings)
    source = DrawingsSource(
        kind="drawings", path=write_packages(tmp_path / "in", 12), sets=("noto",), captions="none", concepts="seen",
        held_out=0.3, resolution=32,
    )  # fmt: skip

    def features(images):
        return torch.from_numpy(images).float().mean((1, 2))

    found = measure(system, source, "run", {"colours": features}, Options(tmp_path, prompts=3))
    assert found["drawings"] == 12
    for part in ("seen without captions", "held out"):
        assert found[part]["prompts"] == 3
        assert set(found[part]["colours"]) == {"ours", "no prior", "unrelated", "ceiling"}
    assert (tmp_path / "run.png").is_file()
    sets = generate_sets(system, read_truth(source), [0, 1, 2], 0)
    again = generate_sets(system, read_truth(source), [2], 0)
    assert np.abs(sets["ceiling"][2].astype(int) - again["ceiling"][0]).max() <= 1  # an image is its concept's alone
    assert (sets["unrelated"][1] == sets["ours"][0]).all()


def test_a_run_on_other_images_is_refused_with_the_configs_to_use():
    with pytest.raises(UsageError, match=r"run tiny-1: expected a run on one artist's drawings.*twemoji.yaml"):
        source_of(make_record(config={"name": "a", "download_shards": {"source": {"kind": "scenes", "num_images": 4}}}))

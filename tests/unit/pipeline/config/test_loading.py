"""Reading an experiment: what is merged, what is refused, and in which words."""

from pathlib import Path

import pytest

from pipeline.config.loading import load_config
from pipeline.errors import UsageError

QUICKSTART = Path(__file__).resolve().parents[4] / "configs" / "quickstart.yaml"


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_extends_merges_sections_and_keeps_paths_beside_their_file(tmp_path: Path) -> None:
    child = _write(tmp_path, "child.yaml", f"extends: {QUICKSTART}\nfit_gaussians: {{num_gaussians: 5}}\n")
    config, base = load_config(child), load_config(QUICKSTART)
    assert config.name == "child"
    assert config.fit_gaussians is not None
    assert config.fit_gaussians.num_gaussians == 5
    assert config.train_decoder == base.train_decoder
    assert config.clip == base.clip  # a relative path in the base file is found from the base file's folder


def test_a_section_of_another_kind_keeps_nothing_of_the_base(tmp_path: Path) -> None:
    section = "train_decoder: {kind: stylegan2, training: {num_steps: 300}}"
    config = load_config(_write(tmp_path, "child.yaml", f"extends: {QUICKSTART}\n{section}\n"))
    assert config.train_decoder is not None
    assert config.train_decoder.kind == "stylegan2"
    assert config.train_decoder.training.schedule == "cosine"  # its own defaults, not the other kind's settings
    assert getattr(config.train_decoder, "clip", None) == config.clip


def test_another_kind_keeps_what_both_have_alike(tmp_path: Path) -> None:
    child = _write(tmp_path, "child.yaml", f"extends: {QUICKSTART}\ntrain_prior: {{kind: gaussian}}\n")
    config, base = load_config(child), load_config(QUICKSTART)
    assert config.train_prior is not None
    assert config.train_prior.kind == "gaussian"
    assert getattr(config.train_prior, "training") == getattr(base.train_prior, "training")  # noqa: B009
    assert config.left_out_of_base == ("train_prior.kappa",)
    assert config.remarks == ["left out of what it extends, as another kind has its own: train_prior.kappa"]
    assert base.remarks == []


def test_nothing_of_the_files_own_is_left_out(tmp_path: Path) -> None:
    section = "train_prior: {kind: gaussian, kappa: 3.0}"
    with pytest.raises(UsageError, match=r"train_prior\.kappa: unknown key"):
        load_config(_write(tmp_path, "child.yaml", f"extends: {QUICKSTART}\n{section}\n"))
    grandchild = _write(tmp_path, "grandchild.yaml", "extends: middle.yaml\ntrain_prior: {kind: gaussian}\n")
    _write(
        tmp_path, "middle.yaml", f"extends: {QUICKSTART}\ntrain_prior: {{kind: flow, training: {{num_steps: 70}}}}\n"
    )
    config = load_config(grandchild)
    assert getattr(config.train_prior, "training").num_steps == 70  # noqa: B009
    assert config.left_out_of_base == ("train_prior.kappa",)


def test_a_source_of_another_kind_keeps_what_both_have(tmp_path: Path) -> None:
    base = _write(
        tmp_path, "base.yaml",
        "download_shards: {source: {kind: url_list, path: a.csv, caption_column: text, url_column: link}}",
    )  # fmt: skip
    child = _write(tmp_path, "child.yaml", f"extends: {base}\ndownload_shards: {{source: {{kind: folder, path: b}}}}")
    config = load_config(child)
    assert config.download_shards is not None
    assert config.download_shards.source.kind == "folder"
    assert {"download_shards.source.url_column"} <= set(config.left_out_of_base)


def test_overrides_reach_into_sections_and_lists() -> None:
    words = ["captions.fraction=0.25", "download_shards.source.num_images=64", "clip.models.0.path=/tmp"]
    config = load_config(QUICKSTART, words)
    assert config.captions.fraction == 0.25
    assert config.train_prior is not None
    assert config.train_prior.captions.fraction == 0.25
    assert config.download_shards is not None
    assert config.download_shards.source.num_images == 64


def test_a_section_may_differ_from_the_shared_one() -> None:
    config = load_config(QUICKSTART, ["seed=3", "train_decoder.seed=9"])
    assert config.train_prior is not None
    assert config.train_decoder is not None
    assert (config.train_prior.seed, config.train_decoder.seed) == (3, 9)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train_decoder.training.num_stepz=5", r"decoder\.training\.num_stepz: unknown key; did you mean 'num_steps'"),
        ("fit_gausians.num_gaussians=5", r"fit_gausians: unknown key; did you mean 'fit_gaussians'"),
        ("fit_gaussians.num_gaussians=many", r"fit_gaussians\.num_gaussians: found 'many'; .*integer"),
        ("captions.fraction=1.5", r"captions\.fraction: found 1\.5; .*less than or equal to 1"),
        ("train_prior.kind=magic", r"train_prior\.kind: found 'magic'; allowed: .*'shifted'"),
        ("captions.fraction=0", r"captions\.fraction is 0.* set captions\.fraction above 0.*reuse\.train_prior"),
        ("fit_gaussians=null", r"train_prior: needs the stage fit_gaussians"),
        ("seed.deep=1", r"seed: is 0, a plain value"),
        ("reuse=5", r"reuse: found 5; .*mapping"),
        ("reuse=true", r"reuse: found True; .*mapping"),
        ("download_shards.source={kind: folder, path: ''}", r"download_shards\.source\.path: found '': expected a"),
        ('train_prior.init_from="a\\0b"', r"train_prior\.init_from: found 'a\\x00b', which is no path here"),
        ("clip.models=[{kind: nothing}]", r"^([^\n]*clip\.models\.0\.kind: found 'nothing'[^\n]*\n?)+$"),
        ("no_equals_sign", r"'no_equals_sign': not an override"),
        ("clip.models.7.path=x", r"'7' is not an index of this list; allowed: 0 to 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_reported(override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_config(QUICKSTART, [override])


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        load_config(QUICKSTART, ["fit_gaussians.num_gaussians=many", "generate.sed=1"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "found list; expected a mapping"),
        ("a: [1\n", "is not valid YAML"),
        ("extends: child.yaml\n", "extends itself"),
        ("extends: nowhere.yaml\n", r"nowhere\.yaml: no such file"),
        ("extends: 5\n", "extends: found 5"),
        ("name: x\n", "no stage has a section"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        load_config(_write(tmp_path, "child.yaml", text))


def test_a_missing_file_is_reported() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml: no such file"):
        load_config("nowhere.yaml")

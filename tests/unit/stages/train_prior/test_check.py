"""What cannot be trained is reported before any process starts: the context of these tests refuses to start one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.contract.errors import ArtifactError, InputFault
from stages.storage.artifact import Artifact, Output
from stages.train_prior import stage as train_prior
from tests.factories import make_context
from tests.unit.stages.train_prior.pieces import DIM, fit, inputs_for, make_embeddings, prior_config


def run(folder: Path, config: Any, inputs: Mapping[str, Artifact]) -> None:
    train_prior.run(config, inputs, Output(str(folder / "p"), "train_prior", "p0"), make_context())


def test_gaussians_of_another_clip_are_refused(tmp_path: Path) -> None:
    inputs = {"embed_clip": make_embeddings(tmp_path, clip="new1234567")}
    inputs["fit_gaussians"] = fit(tmp_path / "g", make_embeddings(tmp_path / "other", clip="old1234567"))
    with pytest.raises(ArtifactError, match=r"the Gaussians in .*r \(old12345\); the embeddings in .*r \(new12345\)"):
        run(tmp_path, prior_config("shifted"), inputs)
    with inputs["fit_gaussians"].writing("fit.json") as path:
        path.write_text("{}")
    with pytest.raises(ArtifactError, match=r"fit\.json: clip: Field required"):
        run(tmp_path, prior_config("shifted"), inputs)


def test_gaussians_of_another_width_are_refused(tmp_path: Path) -> None:
    inputs = inputs_for("shifted", tmp_path)
    gaussians = inputs["fit_gaussians"]
    with Output(gaussians.uri, "fit_gaussians", "g0").writing("gaussians.safetensors") as path:
        save_file({"means": torch.zeros(2, DIM + 1), "stds": torch.ones(2, DIM + 1)}, path)
    with pytest.raises(ArtifactError, match=r"2 Gaussians in .* have 7 dimensions, but the embeddings 6"):
        run(tmp_path, prior_config("shifted"), inputs)


def test_embeddings_of_another_width_than_their_clip_are_refused(tmp_path: Path) -> None:
    inputs = {"embed_clip": make_embeddings(tmp_path, clip_dims=(4, 4))}
    with pytest.raises(InputFault, match=r"have 6 dimensions, but their CLIP models r \(d\) \+ r \(d\) give 8"):
        run(tmp_path, prior_config("gaussian"), inputs)


@pytest.mark.parametrize(("wanted", "rows"), [(7, 60), (6, 6)])
def test_more_components_than_there_can_be_are_refused(tmp_path: Path, wanted: int, rows: int) -> None:
    inputs = {"embed_clip": make_embeddings(tmp_path, rows=rows)}
    words = rf"num_components: found {wanted} with (\d+) training pairs of 6 dimensions: allowed is at most (\d+),"
    with pytest.raises(InputFault, match=words) as caught:
        run(tmp_path, prior_config("autoregressive", num_components=wanted, split={"validation": 0.5}), inputs)
    found = re.search(words, str(caught.value))
    assert found is not None
    assert int(found[2]) == min(int(found[1]) - 1, DIM)


def test_text_states_that_were_not_made_are_refused(tmp_path: Path) -> None:
    inputs = {"embed_clip": make_embeddings(tmp_path, states=("clip",))}
    words = r"text_states: asks for t5, .* text states of clip: set embed_clip.text_states.t5"
    with pytest.raises(InputFault, match=words):
        run(tmp_path, prior_config("gaussian", text_states=["t5"]), inputs)


@pytest.mark.parametrize("kind", ["img_emb", "text_emb"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, kind: str) -> None:
    embeddings = make_embeddings(tmp_path)
    rows = np.load(embeddings.local(f"{kind}/{kind}_00001.npy"))
    rows[0, 3] = np.inf
    with embeddings.writing(f"{kind}/{kind}_00001.npy") as path, path.open("wb") as file:
        np.save(file, rows)
    with pytest.raises(InputFault, match=r"1 of \d+ .*not finite, or too large for .*: expected finite embeddings"):
        run(tmp_path, prior_config("gaussian"), {"embed_clip": embeddings})

"""What validation reports, and that it is kept when training is broken off."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.mapping import map_in_process
from cluster.training import launch_in_process
from models.diffusion.spec import ScheduleSpec
from models.gaussians.bank import GaussianBank
from models.priors.base import Prior
from models.priors.diffusion.model import DiffusionPrior
from models.priors.diffusion.spec import GaussianPriorSpec
from models.priors.flow.model import FlowPrior
from models.priors.flow.spec import FlowPriorSpec
from models.priors.identity.spec import IdentityPriorSpec
from models.priors.spec import TransformerSpec
from stages.contract.events import Event, Metrics, Progress
from stages.contract.findings import Findings, InspectionContext, Table
from stages.contract.stage import StageContext
from stages.formats.captions import CaptionsConfig
from stages.formats.embeddings.reader import load_captioned_rows
from stages.formats.model_folders import load_model_state
from stages.formats.worst_samples import MOST, WorstSamples
from stages.storage.artifact import Artifact, Output
from stages.storage.folder import COMPLETE
from stages.train_prior import stage as train_prior
from stages.train_prior.config import DiffusionValidationConfig, TrainedPriorConfig, ValidationConfig
from stages.train_prior.data import CaptionStates, Pairs
from stages.train_prior.inspect import inspect
from stages.train_prior.plots import plot_by_time
from stages.train_prior.validation import Evaluation, distinct_times, evaluate
from stages.training.config import BestConfig
from tests.unit.stages.train_prior.pieces import DIM, context, inputs_for, prior_config


def make_pairs(count: int, *, text_is_image: bool = False) -> Pairs:
    image = torch.randn(count, DIM, generator=torch.Generator().manual_seed(0)) + 0.5
    rows = torch.arange(count + 1)
    return Pairs(
        image, image.clone() if text_is_image else image.flip(1), rows, CaptionStates({}, rows[:-1], rows[:-1])
    )


def make_diffusion_prior(pairs: Pairs) -> Prior:
    network = TransformerSpec(width=16, num_layers=1, num_heads=2)
    settings = GaussianPriorSpec(DIM, schedule=ScheduleSpec(num_timesteps=20), network=network)
    torch.manual_seed(0)
    prior = DiffusionPrior(settings, GaussianBank.standard(DIM))
    prior.measure(pairs.image, pairs.text)
    assert isinstance(prior, DiffusionPrior)
    torch.nn.init.normal_(prior.network.answer.weight)  # untrained, it answers every caption with the mean
    return prior.eval()


def test_a_perfect_prior_has_perfect_metrics() -> None:
    pairs = make_pairs(40, text_is_image=True)
    found = evaluate(IdentityPriorSpec(DIM).build(), pairs, ValidationConfig(), block_dims=[2, 4], seed=0)
    (steps, report), reference = next(iter(found.by_steps.items())), found.reference
    assert (steps, found.by_time) == (0, {})
    for name in ("cosine_true", "cosine_true_block_1", "norm_ratio", "variance_ratio", "retrieval_at_1"):
        assert report[name] == pytest.approx(1)
    assert report["cosine_unrelated"] == pytest.approx(reference["cosine_unrelated"])
    assert report["frechet"] == pytest.approx(reference["frechet"])
    assert report["mmd"] == pytest.approx(0, abs=1e-9)
    assert report["diversity"] == pytest.approx(0, abs=1e-6)


def test_the_trajectory_ends_at_the_prediction() -> None:
    pairs = make_pairs(600)  # more than are sampled at a time
    config = DiffusionValidationConfig(num_steps=(2, 5), samples_per_caption=3)
    found = evaluate(make_diffusion_prior(pairs), pairs, config, block_dims=[2, 4], seed=0)
    assert list(found.by_steps) == [2, 5]
    assert list(found.by_time) == [20, 16, 12, 8, 4]
    last, report = found.by_time[4], found.by_steps[5]
    assert last["cosine_z_0"] == pytest.approx(report["cosine_true"], abs=1e-6)
    assert last["cosine_z_0_unrelated"] == pytest.approx(report["cosine_unrelated"], abs=1e-6)
    assert abs(found.by_time[20]["cosine_z_t"]) < 0.15  # nothing but noise
    assert report["diversity"] > 1e-3
    metrics = found.metrics()
    assert metrics["cosine_true"] == metrics["cosine_true/steps_5"] == report["cosine_true"]
    assert metrics["cosine_z_t/time_16"] == found.by_time[16]["cosine_z_t"]
    assert metrics["reference/frechet"] == found.reference["frechet"]
    for name in metrics:
        TrainedPriorConfig.metric_names.check(BestConfig(metric=name, mode="lowest"))


def test_figures_of_pairs_have_intervals() -> None:
    pairs = make_pairs(600)
    config = DiffusionValidationConfig(num_steps=(2, 5), samples_per_caption=3)
    found = evaluate(make_diffusion_prior(pairs), pairs, config, block_dims=[2, 4], seed=0)
    metrics, intervals = found.metrics(), found.intervals()
    for name in ("cosine_true", "cosine_unrelated_block_1", "retrieval_at_1", "norm_ratio"):
        assert {name, f"{name}/steps_2", f"{name}/steps_5"} <= set(intervals)
    assert {
        f"cosine_z_{x}{which}/time_{t}" for x in "t0" for which in ("", "_unrelated") for t in found.by_time
    } <= set(intervals)
    for name, (low, high) in intervals.items():
        assert low <= metrics[name] <= high, name
    assert intervals["cosine_z_0/time_4"] == pytest.approx(intervals["cosine_true"], abs=0.01)
    assert intervals["cosine_true/steps_2"] != intervals["cosine_true/steps_5"]


def test_images_of_one_caption_or_one_image_are_no_unrelated_ones() -> None:
    """The truth of every caption is one direction: all else is at right angles, and so is whatever is unrelated."""
    image = torch.eye(DIM).repeat_interleave(7, dim=0)  # 7 images of each of the captions
    starts = 2 * torch.arange(len(image) + 1)
    text = torch.stack([image, torch.randn(image.shape, generator=torch.Generator().manual_seed(0))], 1).flatten(0, 1)
    captions = torch.arange(len(text))
    pairs = Pairs(image, text, starts, CaptionStates({}, captions, captions))  # second captions are all different
    found = evaluate(IdentityPriorSpec(DIM).build(), pairs, ValidationConfig(), block_dims=[DIM], seed=0)
    assert found.metrics()["cosine_true"] == pytest.approx(1)
    assert found.metrics()["cosine_unrelated"] == pytest.approx(0, abs=1e-6)
    assert found.reference["cosine_unrelated"] == pytest.approx(0, abs=1e-6)
    doubled = replace(pairs, image=image, text=torch.randn(text.shape, generator=torch.Generator().manual_seed(1)))
    assert (doubled.related() == torch.arange(DIM).repeat_interleave(7) * 7).all()  # by their images alone


def test_pairs_of_one_caption_have_no_unrelated_figures() -> None:
    pairs = make_pairs(8)
    pairs = replace(pairs, text=pairs.text[:1].expand(8, -1))
    config = DiffusionValidationConfig(num_steps=(2,), samples_per_caption=1)
    found = evaluate(make_diffusion_prior(pairs), pairs, config, block_dims=[2, 4], seed=0)
    assert not [name for name in [*found.metrics(), *found.intervals()] if "unrelated" in name]
    plot_by_time(found)


def make_flow_prior(pairs: Pairs, **changes: Any) -> Prior:
    network = TransformerSpec(width=8, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    spec = FlowPriorSpec(DIM, network=network, **changes)
    prior = FlowPrior.for_training(spec, pairs.image, pairs.text, None)
    assert isinstance(prior, FlowPrior)
    torch.nn.init.normal_(prior.network.answer.weight)
    return prior.eval()


def require_every_step_once(found: Evaluation, num_steps: int) -> None:
    """Check that each step has one mean and interval of all pairs, and of them alone, and that the last is the end."""
    assert len(found.by_time) == len(found.intervals_by_time) == num_steps
    assert list(found.by_time) == sorted(found.by_time, reverse=True)
    for time, report in found.by_time.items():
        assert report.keys() == found.intervals_by_time[time].keys()
        for name, value in report.items():
            assert abs(value) <= 1, (time, name)
            low, high = found.intervals_by_time[time][name]
            assert low - 1e-9 <= value <= high + 1e-9, (time, name)
    last = list(found.by_time.values())[-1]
    assert last["cosine_z_0"] == pytest.approx(found.by_steps[num_steps]["cosine_true"], abs=1e-6)


SOLVERS = [("ancestral", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("dpm_solver", 0.0)]
FLOW_SOLVERS = [*SOLVERS, ("euler", 0.0), ("heun", 0.0)]


@pytest.mark.parametrize(("sampler", "eta"), FLOW_SOLVERS)
@pytest.mark.parametrize(("num_steps", "count"), [((1, 4), 600), ((1024,), 6)])  # 600: more than are sampled at a time
def test_a_flow_is_watched_once_at_each_step(sampler: Any, eta: float, num_steps: Sequence[int], count: int) -> None:
    pairs = make_pairs(count)
    config = DiffusionValidationConfig(num_steps=tuple(num_steps), sampler=sampler, eta=eta, samples_per_caption=1)
    found = evaluate(make_flow_prior(pairs), pairs, config, block_dims=[2, 4], seed=0)
    require_every_step_once(found, num_steps[-1])


@pytest.mark.parametrize(("sampler", "eta"), SOLVERS)
def test_a_diffusion_is_watched_once_at_each_step(sampler: Any, eta: float) -> None:
    pairs = make_pairs(600)
    config = DiffusionValidationConfig(num_steps=(1, 4), sampler=sampler, eta=eta, samples_per_caption=1)
    found = evaluate(make_diffusion_prior(pairs), pairs, config, block_dims=[2, 4], seed=0)
    require_every_step_once(found, 4)
    assert list(found.by_time) == [20, 15, 10, 5]


def test_heun_is_watched_before_it_corrects_its_step() -> None:
    """Its first and its last step begin where Euler's do and where the embedding is; it asks the network in between."""
    pairs = make_pairs(20)
    prior, found = make_flow_prior(pairs), {}
    for sampler in ("euler", "heun"):
        config = DiffusionValidationConfig(num_steps=(4,), sampler=sampler, samples_per_caption=1)
        found[sampler] = evaluate(prior, pairs, config, block_dims=[2, 4], seed=0)
    euler, heun = found["euler"].by_time, found["heun"].by_time
    assert list(euler) == list(heun) == [1000, 750, 500, 250]
    assert heun[1000] == euler[1000]
    assert heun[750]["cosine_z_t"] != euler[750]["cosine_z_t"]  # which is where Heun's predictor ends, too


def test_steps_that_round_to_one_time_keep_names_of_their_own() -> None:
    pairs = make_pairs(6)
    config = DiffusionValidationConfig(num_steps=(512,), samples_per_caption=1)
    found = evaluate(make_flow_prior(pairs, base_dims=1), pairs, config, block_dims=[2, 4], seed=0)  # most are late
    require_every_step_once(found, 512)
    assert len({round(time) for time in found.by_time}) < 512
    names = [name for name in found.metrics() if name.startswith("cosine_z_t/time_")]
    assert len(names) == 512 == len(found.to_json()["by_time"])
    assert distinct_times({0: 1000.0, 1: 500.2, 2: 0.4}) == {0: 1000, 1: 500, 2: 0}
    assert distinct_times({0: 500.24, 1: 500.2, 2: 0.4}) == {0: 500.24, 1: 500.2, 2: 0.4}


def test_one_sample_has_no_diversity_and_three_pairs_no_distances() -> None:
    pairs = make_pairs(3)
    config = DiffusionValidationConfig(num_steps=(2,), samples_per_caption=1)
    found = evaluate(make_diffusion_prior(pairs), pairs, config, block_dims=[6], seed=0)
    assert not {"diversity", "frechet", "mmd"} & set(found.by_steps[2])
    assert found.reference == {}


class Killed(Exception):
    pass


def run(
    folder: Path,
    inputs: Mapping[str, Artifact],
    *,
    killed_at: int | None = None,
    separation: float = 1.0,
    **training: Any,
) -> Output:
    section = {"num_steps": 8, "batch_size": 16, "log_interval": 1, "precision": "float32", "learning_rate": 0.01,
               "checkpoint_interval": 4, "validation_interval": 3}  # fmt: skip
    config = prior_config("shifted", learnable=True, separation_weight=separation, training=section | training)
    output = Output(str(folder), "train_prior", "p0")

    def emit(event: Event) -> None:
        if isinstance(event, Progress) and event.done == killed_at:
            raise Killed

    stopping = StageContext(emit, map_in_process, launch_in_process)
    if killed_at is None:
        train_prior.run(config, inputs, output, context())
    else:
        with pytest.raises(Killed):
            train_prior.run(config, inputs, output, stopping)
    return output


def test_validations_are_kept_over_a_resume(tmp_path: Path) -> None:
    inputs = inputs_for("shifted", tmp_path)
    whole = run(tmp_path / "whole", inputs)
    run(tmp_path / "cut", inputs, killed_at=5)
    left = Output(str(tmp_path / "cut"), "train_prior", "p0").read_json("validation.json")
    assert {name for name in left if name.startswith("validation_")} == {"validation_3"}
    cut = run(tmp_path / "cut", inputs)
    expected, found = whole.read_json("validation.json"), cut.read_json("validation.json")
    assert found == expected
    assert {n for n in found if n.startswith("validation_")} == {f"validation_{step}" for step in (3, 6, 8)}
    assert found["validation_8"] == {name: found[name] for name in ("by_steps", "by_time", "reference")}
    assert found["validation_3"]["by_steps"] != found["validation_8"]["by_steps"]
    weights, same = (load_model_state(output, "prior") for output in (whole, cut))
    assert all(torch.equal(weights[name], same[name]) for name in weights)  # bit by bit, with learnable Gaussians


def test_the_curve_by_sampling_steps_is_measured_at_the_end(tmp_path: Path) -> None:
    found = run(tmp_path / "plain", inputs_for("shifted", tmp_path)).read_json("validation.json")
    whole = [f"steps_{steps}" for steps in found["settings"]["num_steps"]]
    assert len(whole) > 1
    measured = {step: list(found[f"validation_{step}"]["by_steps"]) for step in (3, 6, 8)}
    assert measured == {3: whole[-1:], 6: whole[-1:], 8: whole}
    assert list(found["by_steps"]) == whole


def test_the_curve_is_measured_each_time_where_the_best_weights_are_kept(tmp_path: Path) -> None:
    best = {"metric": "cosine_true", "mode": "highest"}
    found = run(tmp_path / "best", inputs_for("shifted", tmp_path), best=best).read_json("validation.json")
    assert list(found["validation_3"]["by_steps"]) == list(found["validation_8"]["by_steps"])


def test_the_pairs_that_it_fits_least_are_kept_by_key(tmp_path: Path) -> None:
    """The identity's own embedding of a caption is its text's: the losses are those of the files, in order."""
    inputs, output = inputs_for("identity", tmp_path), Output(str(tmp_path / "p"), "train_prior", "p0")
    train_prior.run(prior_config("identity"), inputs, output, context())
    worst = WorstSamples.of(output)
    evaluated = output.read_json("validation.json")
    (report,) = evaluated["by_steps"].values()
    assert worst.validated == evaluated["pairs"] > 10
    assert worst.mean_loss == pytest.approx(1 - report["cosine_true"])
    assert len(worst.samples) == min(worst.validated, MOST)
    losses = [one.loss for one in worst.samples]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]
    for one in worst.samples:
        rows = load_captioned_rows(inputs["embed_clip"], one.shard, CaptionsConfig())
        row = rows.keys.index(one.key)
        image, text = (torch.from_numpy(values[row]).double() for values in (rows.image, rows.text))
        assert one.loss == pytest.approx(1 - float(torch.cosine_similarity(image, text, dim=0)), abs=1e-6)
    assert len({(one.shard, one.key) for one in worst.samples}) == len(losses)


def test_the_pairs_that_a_trained_prior_fits_least_are_those_of_its_last_validation(tmp_path: Path) -> None:
    output = run(tmp_path / "plain", inputs_for("shifted", tmp_path))
    worst, evaluated = WorstSamples.of(output), output.read_json("validation.json")
    assert (worst.step, worst.rounds, worst.validated) == (8, 1, evaluated["pairs"])
    assert worst.mean_loss == pytest.approx(1 - list(evaluated["by_steps"].values())[-1]["cosine_true"])
    findings, artifact = Findings("train_prior", "p0", output.uri, "done"), Artifact(output.uri, "train_prior", "p0")
    (tmp_path / "plain" / COMPLETE).touch()
    inspect(artifact, findings, InspectionContext(lambda stage: None, 16))
    table = findings.blocks[-1]
    assert isinstance(table, Table)
    assert table.title.startswith("held-out pairs of the largest loss")
    assert [row[1] for row in table.rows] == [one.key for one in worst.samples[: len(table.rows)]]


def test_steps_are_shown_by_their_number_and_those_in_training_by_the_most(tmp_path: Path) -> None:
    """The file has names in the order of their letters, and evaluations in training have the most steps alone."""
    output = Output(str(tmp_path), "train_prior", "p0")
    every = {f"steps_{count}": {"cosine_true": count / 100} for count in (1, 2, 4, 8, 16, 32, 64)}
    last = {"by_steps": every, "reference": {}, "pairs": 9}
    inner = {"by_steps": {"steps_64": {"cosine_true": 0.5}}}
    history_rows = {"validation_600": inner, "validation_1200": inner, "validation_9": {"by_steps": {}}}
    output.write_json("validation.json", last | history_rows)
    (tmp_path / COMPLETE).touch()
    findings = Findings("train_prior", "p0", output.uri, "done")
    inspect(Artifact(output.uri, "train_prior", "p0"), findings, InspectionContext(lambda stage: None, 16))
    steps, history = findings.blocks[0], findings.blocks[1]
    assert isinstance(steps, Table)
    assert isinstance(history, Table)
    assert list(steps.headings) == ["measure", *(f"steps_{count}" for count in (1, 2, 4, 8, 16, 32, 64)), "reference"]
    assert "steps_64" in history.title
    assert [list(row) for row in history.rows] == [[9, ""], [600, "0.5"], [1200, "0.5"]]


@pytest.mark.parametrize("changes", [{"zero_stage": 3}, {"zero_stage": 2, "gradient_accumulation": 2}])
def test_zero_trains_learnable_gaussians_alike(tmp_path: Path, changes: dict[str, int]) -> None:
    inputs = inputs_for("shifted", tmp_path)
    outputs = [  # no separation: with it, gradients are not accumulated
        run(tmp_path / str(n), inputs, separation=0.0, validation_interval=None, **c)
        for n, c in enumerate(({}, changes))
    ]
    plain, other = (load_model_state(output, "prior")["bank.mean_offset"] for output in outputs)
    assert plain.abs().max() > 1e-2
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-4)


def test_half_precision_learns(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "p"), "train_prior", "p0")
    events: list[Event] = []
    training = {"num_steps": 40, "batch_size": 32, "learning_rate": 0.01, "log_interval": 10, "precision": "bfloat16",
                "zero_stage": 1}  # fmt: skip
    train_prior.run(
        prior_config("gaussian", training=training), inputs_for("gaussian", tmp_path), output, context(events)
    )
    losses = [event.values["loss"] for event in events if isinstance(event, Metrics) and "loss" in event.values]
    assert losses[-1] < 0.8 * losses[0]

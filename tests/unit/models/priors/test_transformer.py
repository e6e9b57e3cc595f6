"""The diffusion prior's network: what it may see, and that a prefix read once serves like one read every time."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.priors.spec import TextStateSpec, TransformerSpec
from models.priors.text import TextFeatures, TextStates
from models.priors.transformer import PriorTransformer

DIM, BATCH = 8, 4
STATES = {"t5": TextStateSpec(6, 5), "clip": TextStateSpec(7, 4)}
LENGTHS = {"t5": [5, 2, 0, 3], "clip": [1, 4, 4, 2]}
FULL = {"t5": [5] * BATCH, "clip": [4] * BATCH}
KEEP = torch.zeros(BATCH, dtype=torch.bool)


def make_network(states: dict[str, TextStateSpec]) -> PriorTransformer:
    torch.manual_seed(0)
    network = PriorTransformer(TransformerSpec(32, 3, 4, text_states=states), DIM)
    torch.nn.init.normal_(network.answer.weight, std=0.3)  # it starts at zero, which would hide every difference
    return network.eval()


def make_text(lengths: dict[str, list[int]], padding: float = 0.0) -> TextFeatures:
    generator = torch.Generator().manual_seed(3)
    states = {}
    for name, counts in lengths.items():
        values = torch.randn(BATCH, STATES[name].max_length, STATES[name].width, generator=generator)
        for row, count in enumerate(counts):
            values[row, count:] = padding
        states[name] = TextStates(values, torch.tensor(counts))
    return TextFeatures(torch.randn(BATCH, DIM, generator=generator), states)


def make_inputs(seed: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    time = torch.randint(1, 1000, (BATCH,), generator=generator)
    return torch.randn(BATCH, DIM, generator=generator), time, torch.arange(BATCH)


CASES = {"padded": LENGTHS, "full": FULL, "one kind": {"t5": LENGTHS["t5"]}, "embedding alone": {}}


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
@pytest.mark.parametrize("drop", [[False] * 4, [False, True, True, False]], ids=["captioned", "some dropped"])
def test_prefix_reuse_is_no_reuse(lengths: dict[str, list[int]], drop: list[bool]) -> None:
    network, text = make_network({name: STATES[name] for name in lengths}), make_text(lengths)
    prefix = network.prefix(text, torch.tensor(drop))
    for seed in range(3):  # one prefix for several steps
        inputs = make_inputs(seed)
        again = network(*inputs, text, torch.tensor(drop))
        assert again.abs().max() > 0.1
        assert_close(network.predict(prefix, *inputs), again, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
def test_guided_prefix_is_captioned_and_plain(lengths: dict[str, list[int]]) -> None:
    network, text = make_network({name: STATES[name] for name in lengths}), make_text(lengths)
    noisy, time, index = make_inputs()
    prefix = network.guided_prefix(text, KEEP)
    outputs = network.predict(prefix, noisy.repeat(2, 1), time.repeat(2), index.repeat(2))
    captioned, plain = network(noisy, time, index, text, KEEP), network(noisy, time, index, text, ~KEEP)
    assert (captioned - plain).abs().amax(1).min() > 1e-3
    assert_close(outputs, torch.cat([captioned, plain]), rtol=0, atol=1e-5)


def test_padding_has_no_effect_and_no_gradient() -> None:
    outputs, gradients = [], []
    for padding in (0.0, float("nan")):
        network = make_network(STATES)
        output = network(*make_inputs(), make_text(LENGTHS, padding), KEEP)
        output.square().sum().backward()
        outputs.append(output)
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert outputs[1].isfinite().all()
    assert_close(outputs[1], outputs[0])
    assert_close(gradients[1], gradients[0])


def test_the_output_for_a_caption_does_not_depend_on_its_batch() -> None:
    network, text, inputs = make_network(STATES), make_text(LENGTHS), make_inputs()
    together = network(*inputs, text, KEEP)
    for row in range(BATCH):
        one = slice(row, row + 1)
        states = {
            name: TextStates(part.values[one, : int(part.lengths[row])], part.lengths[one])
            for name, part in text.states.items()
        }
        alone = network(*(part[one] for part in inputs), TextFeatures(text.embedding[one], states), KEEP[one])
        assert_close(alone, together[one], rtol=0, atol=1e-5)


@pytest.mark.parametrize("drop", [[True] * 4, [True, False, True, False]], ids=["all dropped", "some dropped"])
def test_nothing_is_seen_of_a_dropped_caption(drop: list[bool]) -> None:
    network, inputs, text, dropped = make_network(STATES), make_inputs(), make_text(FULL), torch.tensor(drop)
    states = {name: TextStates(part.values + 1, part.lengths) for name, part in text.states.items()}
    before, after = (network(*inputs, caption, dropped) for caption in (text, TextFeatures(text.embedding + 1, states)))
    assert_close(after[dropped], before[dropped])
    assert ((after - before)[~dropped].abs() > 1e-3).any(1).all()
    assert_close(before[dropped], network(*inputs, text, ~KEEP)[dropped], rtol=0, atol=1e-5)


def test_no_work_is_done_for_empty_slots() -> None:
    network, text = make_network(STATES), make_text({"t5": [3, 1, 0, 2], "clip": [1, 4, 4, 2]})
    sizes = []
    network.body.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[1]))
    for drop in (KEEP, torch.tensor([True, False, False, True]), ~KEEP):
        network(*make_inputs(), text, drop)
    assert sizes == [3 + 4 + 5, 1 + 4 + 5, 5]


@pytest.mark.parametrize("part", ["noisy", "time", "gaussian", "t5", "clip", "embedding"])
def test_everything_that_is_reported_counts(part: str) -> None:
    network, text, (noisy, time, index) = make_network(STATES), make_text(FULL), make_inputs()
    before = network(noisy, time, index, text, KEEP)
    if part in STATES:
        changed = {**text.states, part: TextStates(text.states[part].values + 1, text.states[part].lengths)}
        after = network(noisy, time, index, TextFeatures(text.embedding, changed), KEEP)
    else:
        embedding = text.embedding + (part == "embedding")
        changed_inputs = (noisy + (part == "noisy"), time + 300 * (part == "time"), index + 7 * (part == "gaussian"))
        after = network(*changed_inputs, TextFeatures(embedding, text.states), KEEP)
    assert (after - before).abs().amax(1).min() > 1e-4


def test_compiles_without_a_graph_break() -> None:
    network, text, inputs = make_network(STATES), make_text(LENGTHS), make_inputs()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*inputs, text, KEEP), network(*inputs, text, KEEP))


def test_states_of_another_width_name_both_sides() -> None:
    network = make_network({"t5": TextStateSpec(9, 5)})
    with pytest.raises(ValueError, match=r"widths \{'t5': 6\}, but the network was built for \{'t5': 9\}"):
        network(*make_inputs(), make_text({"t5": FULL["t5"]}), KEEP)


def test_missing_states_name_both_sides() -> None:
    with pytest.raises(ValueError, match=r"widths \{\}, but the network was built for \{'t5': 6, 'clip': 7\}"):
        make_network(STATES).prefix(make_text({}), KEEP)


def test_too_many_states_are_refused_with_a_remedy() -> None:
    network = make_network({"t5": TextStateSpec(6, 4)})
    with pytest.raises(ValueError, match="up to 5 text states of t5, but its max_length is 4"):
        network(*make_inputs(), make_text({"t5": FULL["t5"]}), KEEP)

"""The other side of ``benchmarks.prior``: DiffusionPrior of the PyPI package dalle2-pytorch, as its manual uses it."""

from collections.abc import Callable

import torch
from dalle2_pytorch import DiffusionPrior, DiffusionPriorNetwork  # type: ignore[import-not-found]

from benchmarks.prior_sides.case import NUM_TIMESTEPS, TEXT_DROPOUT, Case
from benchmarks.sides.serving import serve, timed


def main() -> None:
    """Build the prior and serve."""
    case = Case.from_command_line()
    torch.set_default_dtype(case.dtype)  # its sampling makes noise in the default precision
    network = DiffusionPriorNetwork(
        dim=case.width,
        num_timesteps=NUM_TIMESTEPS,
        max_text_len=case.text_tokens,
        depth=case.num_layers,
        heads=case.num_heads,
        dim_head=case.width // case.num_heads,
    )
    prior = DiffusionPrior(
        network, image_embed_dim=case.width, timesteps=NUM_TIMESTEPS, text_cond_drop_prob=TEXT_DROPOUT
    ).to(case.device, case.dtype)
    works = {
        "train": _training(case, prior, short=False),
        "train short": _training(case, prior, short=True),
        "sample": _sampling(case, prior, short=False),
        "sample short": _sampling(case, prior, short=True),
    }
    serve({name: timed(case.device, work) for name, work in works.items()})


def _captions(case: Case, rows: int, *, short: bool) -> dict[str, torch.Tensor]:
    return {
        "text_embed": case.embeddings(rows),
        "text_encodings": case.states(rows, case.lengths(rows, short=short)),
    }


def _training(case: Case, prior: DiffusionPrior, *, short: bool) -> Callable[[], None]:
    image, text = case.embeddings(case.batch), _captions(case, case.batch, short=short)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        prior(image_embed=image.clone(), **text).backward()  # it scales its argument in place
        optimizer.step()
        optimizer.zero_grad()

    return step


def _sampling(case: Case, prior: DiffusionPrior, *, short: bool) -> Callable[[], None]:
    text = _captions(case, case.captions, short=short)

    def sample() -> None:
        prior.eval()
        # Its DDIM asks the network once less than the number that it is given says.
        prior.p_sample_loop((case.captions, case.width), text_cond=text, timesteps=case.num_steps + 1)
        prior.train()

    return sample


if __name__ == "__main__":
    main()

"""The codebook: straight-through gradients, averages by their formula, dead codes revived the same every time."""

import threading

import pytest
import torch

from models.autoencoders.codebook import Codebook
from models.autoencoders.spec import CodebookSettings


def make_codebook(num_codes=6, dim=2, workers=None, **fields):
    torch.manual_seed(0)
    return Codebook(CodebookSettings(num_codes=num_codes, **fields), dim, workers)


def used(codebook, count=1.0):
    """Count every code as used, so that none is dead."""
    codebook.counts.fill_(count)
    codebook.sums.copy_(codebook.codes * count)
    return codebook


def latents(batch=3, dim=2, side=2, seed=1):
    return torch.randn(batch, dim, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_gradient_passes_straight_through_to_the_encoder():
    codebook, z = make_codebook(), latents().requires_grad_()
    weights = torch.randn(3, 2, 2, 2)
    quantized = codebook(z)
    torch.testing.assert_close(quantized.latents, codebook.lookup(quantized.codes))  # forwards: the codes
    (quantized.latents * weights).sum().backward()
    assert torch.equal(z.grad, weights)  # backwards: as if nothing had happened


def test_the_commitment_term_pulls_the_encoder_to_its_codes():
    codebook, z = make_codebook(), latents().requires_grad_()
    quantized = codebook(z)
    quantized.commitment.sum().backward()
    expected = 2 * (z - codebook.lookup(quantized.codes)).detach() / z[0].numel()
    torch.testing.assert_close(z.grad, expected)
    assert not codebook.codes.requires_grad


def test_the_nearest_code_is_chosen():
    codebook, z = make_codebook(num_codes=9, dim=5), latents(dim=5)
    flat = z.permute(0, 2, 3, 1).reshape(-1, 5)
    assert torch.equal(codebook.nearest(z).flatten(), torch.cdist(flat, codebook.codes).argmin(1))


def test_averages_follow_the_formula():
    codebook = used(make_codebook(code_decay=0.9), 2.0)
    counts, sums = codebook.counts.tolist(), codebook.sums.tolist()
    z = latents()
    chosen = codebook(z, torch.zeros(3)).codes.flatten().tolist()
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 2).tolist()
    for code in range(6):
        mine = [vector for vector, c in zip(vectors, chosen, strict=True) if c == code]
        n = 0.9 * counts[code] + 0.1 * len(mine)
        m = [0.9 * s + 0.1 * sum(v[axis] for v in mine) for axis, s in enumerate(sums[code])]
        assert codebook.counts[code].item() == pytest.approx(n, rel=1e-5)
        assert codebook.sums[code].tolist() == pytest.approx(m, rel=1e-4, abs=1e-6)
        assert codebook.codes[code].tolist() == pytest.approx([value / n for value in m], rel=1e-4, abs=1e-6)


def test_without_indices_nothing_moves():
    codebook = used(make_codebook())
    before = {name: buffer.clone() for name, buffer in codebook.named_buffers()}
    codebook(latents())
    assert all(torch.equal(buffer, before[name]) for name, buffer in codebook.named_buffers())


def test_dead_codes_are_moved_to_the_named_indices_in_order():
    codebook = used(make_codebook(code_decay=0.5, dead_fraction=0.2), 4.0)
    codebook.codes[[0, 2, 5]] = 1e3  # too far away to be chosen
    codebook.counts[[0, 2, 5]] = 1e-3
    codebook.sums.copy_(codebook.codes * codebook.counts[:, None])
    z = latents(batch=2)
    codebook(z, torch.tensor([0.3, 0.99]))  # of four positions: the second and the last
    torch.testing.assert_close(codebook.codes[0], z[0, :, 0, 1])
    torch.testing.assert_close(codebook.codes[2], z[1, :, 1, 1])
    assert codebook.codes[5].norm() > 100  # its turn comes with the next batch
    assert codebook.counts[0] > 0.2 * codebook.counts.mean()


def test_a_new_codebook_is_filled_from_its_first_batches():
    codebook, z = make_codebook(num_codes=32), 50 + latents(batch=16, seed=2)
    positions = torch.rand(16, generator=torch.Generator().manual_seed(0))
    first = codebook(z, positions).commitment.mean()
    for _ in range(3):
        codebook(z, positions)
    assert codebook(z).commitment.mean() < first / 1000
    assert codebook.perplexity > 8


def test_equal_use_has_the_perplexity_of_all_codes():
    assert used(make_codebook()).perplexity.item() == pytest.approx(6)
    codebook = make_codebook()
    codebook.counts[3] = 5.0
    assert codebook.perplexity.item() == pytest.approx(1)


def test_it_keeps_its_precision_in_half_precision_training():
    codebook = used(make_codebook()).to(torch.bfloat16)
    assert {buffer.dtype for buffer in codebook.buffers()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert codebook(latents().bfloat16(), torch.zeros(3)).latents.dtype == torch.float32


class Exchange:
    """Two workers in two threads that tell each other what they have."""

    def __init__(self):
        self.barrier = threading.Barrier(2)
        self.held = {}

    def worker(self, rank):
        exchange = self

        class Worker:
            def everyone(self, values):
                exchange.held[rank] = values
                exchange.barrier.wait(60)
                found = [exchange.held[0].clone(), exchange.held[1].clone()]
                exchange.barrier.wait(60)
                return found

            def total(self, values):
                return sum(self.everyone(values))

            def joined(self, rows):
                return torch.cat(self.everyone(rows))

        return Worker()


def test_two_workers_hold_the_codebook_of_one():
    z, positions = latents(batch=4), torch.tensor([0.1, 0.4, 0.6, 0.9])
    alone = make_codebook(num_codes=16)
    alone(z, positions)
    exchange = Exchange()
    pair = [make_codebook(num_codes=16, workers=exchange.worker(rank)) for rank in range(2)]
    halves = [slice(0, 2), slice(2, 4)]
    threads = [
        threading.Thread(target=codebook, args=(z[half], positions[half]))
        for codebook, half in zip(pair, halves, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for codebook in pair:
        torch.testing.assert_close(codebook.codes, alone.codes)
        torch.testing.assert_close(codebook.counts, alone.counts)

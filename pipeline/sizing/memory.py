"""Memory per GPU by ZeRO stage: Rajbhandari et al., ZeRO (arXiv 1910.02054), section 5 and figure 1.

Symbols: P = weights, T = those of them that are trained, N = GPUs. Weights, gradients and Adam's two moments are single
precision here (arithmetic is lowered by autocast), so per trained weight 4 bytes, 4 and 8, where the paper's mixed
precision has 2, 2 and K = 12; the averaged weights (EMA) add 4 per weight.

    stage 0   4 P + 4 T + 8 T                  + 4 P
    stage 1   4 P + 4 T + (8 + 4) T / N        + 4 P     the paper's P_os
    stage 2   4 P + (4 + 8 + 4) T / N          + 4 P     P_os+g
    stage 3   (4 P + 4 T + 8 T) / N            + 4 P / N P_os+g+p; each GPU averages the weights that it holds

In stages 1 and 2 DeepSpeed keeps a copy of the weights that each GPU updates: the 4 T / N beside the moments. What is
left out: activations (gradient_checkpointing and gradient_accumulation lower them), buffers for communication, and
frozen networks beside the trained one.
"""

FLOAT, MOMENTS = 4, 8
STAGES = (0, 1, 2, 3)


def bytes_per_gpu(num_weights: int, num_trained: int, *, zero_stage: int, num_gpus: int) -> float:
    """Return the bytes that weights, gradients, optimiser and average take on each GPU."""
    weights, average = FLOAT * num_weights, FLOAT * num_weights
    gradients, optimizer = FLOAT * num_trained, MOMENTS * num_trained
    match zero_stage:
        case 0:
            return weights + gradients + optimizer + average
        case 1:
            return weights + gradients + (optimizer + FLOAT * num_trained) / num_gpus + average
        case 2:
            return weights + (gradients + optimizer + FLOAT * num_trained) / num_gpus + average
        case 3:
            return (weights + gradients + optimizer + average) / num_gpus
    raise ValueError(f"zero_stage is {zero_stage}: allowed are 0, 1, 2 and 3")

"""One optimiser step on many processes: DeepSpeed behind a small surface. The one file that imports deepspeed.

Weights are float32; forward and backward run under autocast in the configured precision. Everything that leaves
here (weights, averages, optimiser state) is whole, whatever the ZeRO stage, so checkpoints fit any number of workers.
"""

import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from stages.contract.errors import InputFault
from stages.training.bad_steps import BadSteps
from stages.training.config import TrainingConfig
from stages.training.ema import Ema
from stages.training.task import Batch, RankInfo

LONGEST_WAIT = timedelta(days=1)
"""For another process: rank 0 may validate for long. One that stands still is found by its signs of life, sooner."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
State = dict[str, dict[str, Tensor]]  # "weights", "average", "exp_avg", "exp_avg_sq": by parameter name


@cache
def _deepspeed() -> ModuleType:
    """Import deepspeed without mlflow (which its autotuner imports, 1.4 s) and without compiling an operator.

    On CPU it would compile a shared-memory all-reduce, half a minute at the first start.
    """
    absent = "mlflow" not in sys.modules
    if absent:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # the documented way to hide a module
    try:
        import deepspeed
    finally:
        if absent:
            del sys.modules["mlflow"]
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.WARNING)
    return deepspeed  # type: ignore[no-any-return]


def join_group(*, use_gpu: bool) -> RankInfo:
    """Join the process group that the environment variables describe, and choose the device."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank % torch.cuda.device_count()) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    rank_info = RankInfo(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device)
    if not torch.distributed.is_initialized():
        backend = "nccl" if use_gpu else "gloo"
        _form_group(backend, rank_info)
        _deepspeed().init_distributed(dist_backend=backend, verbose=False)
    return rank_info


def _form_group(backend: str, rank_info: RankInfo) -> None:
    """Form torch's process group on the address of rank 0 alone; torch itself would listen on all of the machine's.

    A group of one needs no port. On one machine, whose address is loopback, gloo and NCCL use that interface too.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if ipaddress.ip_address(address).is_loopback:
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    store: Store
    if rank_info.world_size == 1:
        store = HashStore()
    elif rank_info.rank == 0:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.create_server((address, port), family=family)
        store = TCPStore(address, port, rank_info.world_size, is_master=True, master_listen_fd=listening.detach())
    else:
        store = TCPStore(address, port, rank_info.world_size, is_master=False)
    torch.distributed.init_process_group(
        backend, store=store, rank=rank_info.rank, world_size=rank_info.world_size, timeout=LONGEST_WAIT
    )


def leave_group() -> None:
    """Leave the process group; a group of one stays open, as this process may train again."""
    if torch.distributed.get_world_size() > 1:
        torch.distributed.destroy_process_group()


def autocast_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of forward and backward."""
    if config.precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.precision]
    supported = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.bfloat16 if supported else torch.float32


class Engine:
    """A model with its optimiser and averaged weights, spread over the group."""

    def __init__(self, model: nn.Module, config: TrainingConfig, rank_info: RankInfo) -> None:
        """Wrap the model, which holds the initial weights."""
        _check_batch(config, rank_info)
        self._config = config
        self._rank_info = rank_info
        self._dtype = autocast_dtype(config, rank_info.device)
        self.model = model.to(rank_info.device)
        _broadcast_buffers(self.model, rank_info)
        if config.compile:
            self.model.compile()  # in place: the names of the weights stay as they are
        self._optimizer = _make_optimizer(self.model, config)
        self._engine = _deepspeed().initialize(
            model=self.model, optimizer=self._optimizer, config=_deepspeed_config(config, self._dtype)
        )[0]
        if rank_info.world_size == 1 and config.zero_stage == 0:
            # DeepSpeed would copy all gradients to one buffer and back, with nothing to reduce.
            self._engine.enable_backward_allreduce = False
        self._parameters = dict(self.model.named_parameters())
        self._trained = {name: p for name, p in self._parameters.items() if p.requires_grad}
        self._ema = Ema(self._parameters, rank_info.rank)
        self.grad_norm: Tensor | float | None = None
        self.bad_steps = BadSteps(config.spike_factor, rank_info.device)

    def autocast(self) -> torch.autocast:
        """Return the context for calls of the model outside of training."""
        return torch.autocast(self._rank_info.device.type, self._dtype, enabled=self._dtype != torch.float32)

    def step(self, step: int, parts: Iterable[Batch]) -> dict[str, Tensor]:
        """Take one optimiser step over the parts; return the model's outputs averaged over them, on the device."""
        averages: dict[str, Tensor] = {}
        self._set_rate(self._config.learning_rate_at(step))
        for batch in parts:
            outputs = self._engine(batch)
            self._engine.backward(outputs["loss"].float().mean())
            for name, values in outputs.items():
                mean = values.detach().float().mean() / self._config.gradient_accumulation
                averages[name] = averages[name] + mean if name in averages else mean
            if self._engine.is_gradient_accumulation_boundary():
                self._fill_gradients()
                self._clip()
                self._leave_out_if_bad()
            self._engine.step()
        if self._config.zero_stage:
            self.grad_norm = self._engine.get_global_grad_norm()
            if self.grad_norm is not None:
                self.bad_steps.note(self.grad_norm)
        self._ema.update(self._config.ema_decay_at(step))
        return averages

    def _set_rate(self, rate: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    def _fill_gradients(self) -> None:
        """Give weights without a gradient in this step one of 0, as checkpoints hold an optimiser state for all."""
        if self._config.zero_stage:
            return
        for parameter in self._trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _clip(self) -> None:
        """Clip where ZeRO does not; DeepSpeed's own clipping at stage 0 does not report the norm."""
        if self._config.zero_stage:
            return
        limit, trained = self._config.gradient_clip or float("inf"), self._trained.values()
        self.grad_norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        # On the CPU the comparison is free and saves a pass over all gradients; on a GPU it would wait for the device.
        if self._rank_info.device.type != "cpu" or self.grad_norm > limit:
            nn.utils.clip_grads_with_norm_(trained, limit, self.grad_norm)

    def _leave_out_if_bad(self) -> None:
        """Count a bad step; AdamW, fused, leaves one out on the device, as it does for a scaler of gradients."""
        if self._config.zero_stage or self.grad_norm is None:
            return
        bad = self.bad_steps.note(self.grad_norm)
        if self._config.bad_steps == "skip":
            self._optimizer.found_inf = bad  # type: ignore[attr-defined]

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return the whole averaged weights and the buffers; every process must call it."""
        return self._ema.full() | self._buffers()

    def _buffers(self) -> dict[str, Tensor]:
        """Return the buffers that belong to the model's state; constants such as masks do not."""
        kept = self.model.state_dict().keys()
        return {name: buffer for name, buffer in self.model.named_buffers() if name in kept}

    def state(self) -> State:
        """Return a copy of all that training depends on, whole and on the CPU; every process must call it."""
        moments: State = {
            key: {name: _copy(self._moment(p, key)) for name, p in self._trained.items()} for key in _MOMENTS
        }
        weights = {name: self._ema.current(name).cpu() for name in self._parameters}
        buffers = {name: _copy(buffer) for name, buffer in self._buffers().items()}
        average = {name: tensor.cpu() for name, tensor in self._ema.full().items()}
        return moments | {"weights": weights | buffers, "average": average}

    def num_updates(self, steps: int) -> int:
        """Return how many of these steps changed the weights: those that were skipped, as they were bad, did not."""
        counts = [int(held["step"]) for held in self._optimizer.state.values()] if not self._config.zero_stage else []
        return counts[0] if counts else steps

    def restore(
        self, state: Mapping[str, Mapping[str, Tensor]], num_updates: int, make_batch: Callable[[], Batch]
    ) -> None:
        """Restore the optimiser's state and the averages after so many steps that changed the weights.

        The model held the weights before it was wrapped.
        """
        self._make_optimizer_state(make_batch)
        for key in _MOMENTS:
            for name, parameter in self._trained.items():
                self._set_moment(parameter, key, state[key][name].to(self._rank_info.device))
        for held in self._optimizer.state.values():
            held["step"].fill_(num_updates)
        self._ema.restore(state["average"])
        for name, buffer in self._buffers().items():  # the passes above have changed batch norm's statistics
            buffer.copy_(state["weights"][name])

    def _make_optimizer_state(self, make_batch: Callable[[], Batch]) -> None:
        """Have the optimiser's state made, by a step at rate 0 with gradients of 0, which changes nothing else.

        ZeRO's are made by a pass of a batch, whose loss must be finite.
        """
        self._set_rate(0.0)
        if not self._config.zero_stage:
            self._fill_gradients()
            self._optimizer.step()
            self._optimizer.zero_grad()
            return
        part = make_batch()
        for _ in range(self._config.gradient_accumulation):
            self._engine.backward(self._engine(part)["loss"].float().mean() * 0.0)
            self._engine.step()

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self._config.zero_stage:
            return _deepspeed().utils.safe_get_full_optimizer_state(parameter, key)  # type: ignore[no-any-return]
        return self._optimizer.state[parameter][key]  # type: ignore[no-any-return]

    def _set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        if self._config.zero_stage:
            _deepspeed().utils.safe_set_full_optimizer_state(parameter, value, key)
        else:
            self._optimizer.state[parameter][key].copy_(value)


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, which further steps do not change."""
    return tensor.detach().to("cpu", copy=True)


def _broadcast_buffers(model: nn.Module, rank_info: RankInfo) -> None:
    """Give every process rank 0's buffers, as DeepSpeed does with weights.

    Statistics of the data, which each process computes itself, differ by rounding between unlike machines.
    """
    if rank_info.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _check_batch(config: TrainingConfig, rank_info: RankInfo) -> None:
    pieces = rank_info.world_size * config.gradient_accumulation
    if config.batch_size % pieces:
        raise InputFault(
            f"training.batch_size: found {config.batch_size}: expected a multiple of {pieces} "
            f"({rank_info.world_size} workers x {config.gradient_accumulation} gradient_accumulation): change one"
        )


def _make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov and Hutter, arXiv 1711.05101).

    All weights form one group: of several, DeepSpeed's ZeRO 1 and 2 give access to the state of the first only.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


def _deepspeed_config(config: TrainingConfig, dtype: torch.dtype) -> dict[str, Any]:
    lowered = dtype != torch.float32
    return {
        "train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "gradient_clipping": (config.gradient_clip or 0.0) if config.zero_stage else 0.0,
        "zero_optimization": {
            "stage": config.zero_stage,
            "stage3_param_persistence_threshold": 0,  # so that every weight is split, and gathers like any other
        },
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": lowered, "dtype": str(dtype).removeprefix("torch.")},
        "steps_per_print": sys.maxsize,
    }

"""Optimisation: optimisers, learning rate schedules, mixed precision, gradient clipping, moving average of the weights."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ..models.model import HashModel

OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["step", "cosine", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]

# torch.optim is looked up at each call, because users may replace its classes.
OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda groups, **keywords: torch.optim.Adam(groups, **keywords),
    "adamw": lambda groups, **keywords: torch.optim.AdamW(groups, **keywords),
    "sgd": lambda groups, **keywords: torch.optim.SGD(groups, momentum=0.9, **keywords),
}

PRECISIONS: dict[Precision, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_schedule(config: Any, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Return the learning rate schedule over `steps` optimiser steps that the TrainConfig `config` describes."""
    warmup = round(config.warmup * steps) if config.warmup < 1 else round(config.warmup)
    factor = SCHEDULES[config.schedule]
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)) * factor(config, step, warmup, steps))


def _step_decay(config: Any, step: int, warmup: int, steps: int) -> float:
    """Return 1, and `lr_decay` for the steps after the share `lr_decay_at` of all steps."""
    return 1.0 if step < config.lr_decay_at * steps else config.lr_decay


def _cosine(config: Any, step: int, warmup: int, steps: int) -> float:
    """Return 1 until the end of the warm-up, then half a cosine that reaches 0 after the last step."""
    return (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup))) / 2


SCHEDULES: dict[ScheduleName, Callable[[Any, int, int, int], float]] = {  # (config, step, steps of warm-up, all steps) -> factor
    "step": _step_decay,
    "cosine": _cosine,
    "constant": lambda config, step, warmup, steps: 1.0,
}


class Stepper:
    """An optimiser with its schedule, gradient scaler, clipping and moving average of the weights.

    Args:
        config: a TrainConfig.
        model: the model whose weights are averaged.
        groups: the optimiser's parameter groups; the first is the head.
        lr: learning rate of groups that set none.
        steps: number of calls of `step` in the whole training.
    """

    def __init__(self, config: Any, model: HashModel, groups: list[dict], lr: float, steps: int) -> None:
        self.model = model
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.clip_grad_norm = config.clip_grad_norm
        # torch's fused SGD uses uninitialised memory for its momentum if the first step overflows, which happens in fp16.
        fused = (config.optimizer, config.precision) != ("sgd", "fp16")
        self.optimizer = OPTIMIZERS[config.optimizer](groups, lr=lr, weight_decay=config.weight_decay, fused=fused)
        self.schedule = make_schedule(config, self.optimizer, steps)
        self.scaler = torch.amp.GradScaler(_device_type(self.parameters), enabled=config.precision == "fp16")
        self.average = None if config.ema is None else _moving_average(model, config.ema)

    @property
    def lr(self) -> float:
        """Learning rate of the next step for the first group, the head."""
        return float(self.schedule.get_last_lr()[0])

    @property
    def result(self) -> HashModel:
        """The model that is validated and returned: the model itself, or the moving average of its weights."""
        return self.model if self.average is None else cast(HashModel, self.average.module)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the parameters."""
        self.scaler.scale(loss).backward()

    def step(self) -> None:
        """Apply the accumulated gradients, reset them, and advance the schedule and the moving average."""
        if self.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def autocast(config: Any, device: torch.device) -> torch.autocast:
    """Return the autocast context of `config.precision`; it does nothing in fp32."""
    dtype = PRECISIONS[config.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _moving_average(model: nn.Module, decay: float) -> Any:
    """Return an exponential moving average of the weights of `model` and of the running statistics of its batch norms."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).eval()


def _device_type(parameters: Iterable[nn.Parameter]) -> str:
    return next(iter(parameters)).device.type

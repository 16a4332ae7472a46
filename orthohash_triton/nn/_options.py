"""Options that a loss module keeps for the function that it calls."""

import inspect
from typing import Any

from torch import Tensor, nn


class LossModule(nn.Module):
    """A loss with fixed options, which `repr` shows unless they are the defaults."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__()
        self.keywords = keywords

    def extra_repr(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        return ", ".join(
            f"{name}={value!r}" for name, value in self.keywords.items() if value is not None and value != defaults[name].default
        )


class CodebookLoss(LossModule):
    """A loss against a codebook, which is a buffer: it moves with the module and is saved with it."""

    codebook: Tensor  # int8 +-1 [C, K]

    def __init__(self, codebook: Tensor, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.register_buffer("codebook", codebook)

    def extra_repr(self) -> str:
        classes, bits = self.codebook.shape
        return ", ".join(filter(None, (f"classes={classes}, bits={bits}", super().extra_repr())))

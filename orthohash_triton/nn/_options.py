"""Options that a loss module checks and keeps for the function that it calls."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from ..ops.cosine_codebook_loss import check_codebook


class LossModule(nn.Module):
    """A loss with fixed options, which `repr` shows unless they are the defaults."""

    check: ClassVar[Callable[..., dict[str, Any]]]  # the function's check of its options, which returns them as plain values

    def __init__(self, **keywords: Any) -> None:
        super().__init__()
        self.keywords = type(self).check(type(self).__name__, **keywords)

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
        self.register_buffer("codebook", check_codebook(type(self).__name__, codebook))

    def extra_repr(self) -> str:
        classes, bits = self.codebook.shape
        return ", ".join(filter(None, (f"classes={classes}, bits={bits}", super().extra_repr())))

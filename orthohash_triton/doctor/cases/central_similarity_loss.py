"""Cases of `central_similarity_loss`."""

from ...ops.central_similarity_loss import central_similarity_loss, tie_breaker
from ...ops.dispatch import Impl
from ...ops.quantization_loss import Kind
from ...reference.central_similarity_loss import central_similarity_loss as central_similarity_reference
from ._case import FLOAT32, TARGET_NAMES, Case, Inputs, Outputs, Targets, codebook_inputs, leaf, loss_and_gradients


def _case(targets: Targets, quantization: Kind) -> Case:
    """Return a case with one kind of targets and one quantization penalty."""

    def run(given: Inputs, impl: Impl) -> Outputs:
        u, target, codebook = leaf(given["u"]), given["target"], given["codebook"]
        if impl == "reference":
            ties = tie_breaker(64, 0, u.device)
            loss = central_similarity_reference(u, target, codebook, ties, quantization_weight=0.1, quantization=quantization)
        else:
            loss = central_similarity_loss(u, target, codebook, quantization_weight=0.1, quantization=quantization)
        return loss_and_gradients(loss, u)

    label = f"37 x 101 x 64, {TARGET_NAMES[targets]}, {quantization}"
    make = codebook_inputs(37, 101, 64, targets=targets, name="u")
    return Case("central_similarity_loss", label, make, run, FLOAT32, is_plain=True)


CASES = [_case("ids", "log_cosh"), _case("dense", "l2")]

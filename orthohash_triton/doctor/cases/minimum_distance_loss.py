"""Cases of `minimum_distance_loss`."""

from torch import Generator

from ...ops.dispatch import Impl
from ...ops.minimum_distance_loss import minimum_distance_loss
from ...reference.minimum_distance_loss import minimum_distance_loss as minimum_distance_reference
from ._case import FLOAT32, Case, Inputs, Outputs, class_ids, codebook_inputs, leaf, loss_and_gradients, normal


def _case(*, with_bank: bool) -> Case:
    """Return a case with or without a bank of earlier codes."""

    def make(generator: Generator) -> Inputs:
        given = codebook_inputs(37, 101, 64, name="u")(generator)
        return given | {"bank": normal(generator, 333, 64), "bank_target": class_ids(generator, 333, 101)}

    def run(given: Inputs, impl: Impl) -> Outputs:
        if impl == "reference":
            given = {name: tensor.cpu() for name, tensor in given.items()}
        u, bank = leaf(given["u"]), (given["bank"], given["bank_target"]) if with_bank else ()
        loss = minimum_distance_reference if impl == "reference" else minimum_distance_loss
        return loss_and_gradients(loss(u, given["target"], given["codebook"], *bank), u)

    label = "37 x 101 x 64" + (", bank of 333" if with_bank else "")
    return Case("minimum_distance_loss", label, make, run, FLOAT32, is_plain=True)


CASES = [_case(with_bank=True), _case(with_bank=False)]

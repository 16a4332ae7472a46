"""Tests of the re-estimation of batch normalisation on new data."""

import itertools

import pytest
import torch
from torch import nn

import orthohash_triton as oht
from orthohash_triton.nn import HashHead, reestimate_batch_norm
from tests.processes import in_two_processes
from tests.tolerances import tolerance


class Model(nn.Module):
    """A network of batch normalisation and dropout before a hash head, after some training steps."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.5))
        self.head = HashHead(12, 8)
        for layer in (self.backbone[1], self.head.batch_norm):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x):
        return self.head(self.backbone(x))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, model):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}


def assert_mean(found, latent):
    """Compare a running mean with that of latents [N, K]: the rounding errors of two layers and of the mean add up."""
    torch.testing.assert_close(found.double(), latent.mean(0), **tolerance(len(latent), latent.abs().max(), sums=3))


def assert_variance(found, values):
    """Compare a running variance with that of values [N, K]: an error e of a value moves the variance by 2 e std."""
    spread = 2 * values.std(0).max()
    torch.testing.assert_close(found.double(), values.var(0), **tolerance(len(values), values.abs().max() * spread, sums=3))


def data():
    return 100 + torch.randn(101, 6)  # far from zero, where a sum of squares would cancel


@torch.no_grad()
def latents(model, x):
    training = model.training
    result = model.eval().head.latent(model.backbone(x))
    model.train(training)
    return result


@pytest.mark.parametrize("batch", [1, 7, 64, 101])
def test_statistics_are_those_of_all_data_at_once(batch):
    model, x = Model(), data()
    before, latent = state(model), latents(model, x).double()
    reestimate_batch_norm(model, x.split(batch))
    assert_mean(model.head.batch_norm.running_mean, latent)
    assert_variance(model.head.batch_norm.running_var, latent)
    assert changed(before, model) == {"head.batch_norm.running_mean", "head.batch_norm.running_var"}


def test_it_is_public_and_takes_tuples_and_a_loader():
    model, x = Model(), data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(len(x))), batch_size=10)
    latent = latents(model, x).double()
    oht.reestimate_batch_norm(model, loader, device="cpu")
    assert_mean(model.head.batch_norm.running_mean, latent)


def test_reset_affine():
    model, x = Model(), data()
    reestimate_batch_norm(model, [x], reset_affine=True)
    assert (model.head.batch_norm.weight == 1).all()
    assert (model.head.batch_norm.bias == 0).all()
    codes = model.eval()(x)
    torch.testing.assert_close(codes.mean(0), torch.zeros(8), rtol=0, atol=1e-3)
    expected = (model.head.batch_norm.running_var / (model.head.batch_norm.running_var + 1e-5)).sqrt()  # eps
    torch.testing.assert_close(codes.std(0), expected, rtol=1e-3, atol=0)


def test_a_later_layer_sees_an_earlier_one_re_estimated():
    model, x = Model(), data()
    layers = [model.backbone[1], model.head.batch_norm]
    reestimate_batch_norm(model, x.split(13), layers=layers)
    with torch.no_grad():
        first = model.backbone[0](x).double()
        assert_variance(layers[0].running_var, first)
        assert_variance(layers[1].running_var, latents(model, x).double())


def test_pictures():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    x = torch.randn(10, 3, 6, 6)
    reestimate_batch_norm(model, x.split(4), layers=[model[1]])
    with torch.no_grad():
        assert_variance(model[1].running_var, model[0](x).double().transpose(0, 1).flatten(1).T)


def test_training_flags_come_back():
    model = Model()
    model.train()
    model.backbone[1].eval()
    flags = [module.training for module in model.modules()]
    reestimate_batch_norm(model, [data()])
    assert [module.training for module in model.modules()] == flags


def test_reset_affine_of_a_layer_without_weights():
    model = nn.Sequential(nn.BatchNorm1d(6, affine=False))
    x = data()
    reestimate_batch_norm(model, [x], layers=[model[0]], reset_affine=True)
    assert_mean(model[0].running_mean, x.double())


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_is_half_changed_when_the_loader_raises(error):
    model, x = Model(), data()
    layers = [model.backbone[1], model.head.batch_norm]
    before, flags = state(model), [module.training for module in model.modules()]
    passes = []

    class BreaksInItsSecondPass:
        def __iter__(self):
            passes.append(1)
            yield x
            if len(passes) == 2:
                raise error("unplugged")

    with pytest.raises(error, match="unplugged"):
        reestimate_batch_norm(model, BreaksInItsSecondPass(), layers=layers, reset_affine=True)
    assert changed(before, model) == set()
    assert [module.training for module in model.modules()] == flags
    assert not model.head.batch_norm._forward_pre_hooks


@pytest.mark.parametrize(
    ("loader", "keywords", "error", "message"),
    [
        ([], {}, ValueError, "loader is empty"),
        (["file"], {}, TypeError, "loader must yield tensors.*got str"),
        ([torch.zeros(1, 6)], {}, ValueError, "saw 1 values a channel"),
        ([torch.zeros(2, 6)], {"layers": [nn.Linear(1, 1)]}, TypeError, "must be BatchNorm layers of model; got Linear"),
        ([torch.zeros(2, 6)], {"layers": [nn.BatchNorm1d(8)]}, TypeError, "got BatchNorm1d that is not part of model"),
    ],
)
def test_bad_input(loader, keywords, error, message):
    model = Model()
    before = state(model)
    with pytest.raises(error, match=f"reestimate_batch_norm: .*{message}"):
        reestimate_batch_norm(model, loader, **keywords)
    assert changed(before, model) == set()


def test_a_model_without_a_head_must_name_its_layers():
    with pytest.raises(ValueError, match=r"model has no HashHead with batch norm; name the BatchNorm layers"):
        reestimate_batch_norm(nn.Linear(2, 2), [torch.zeros(2, 2)])
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(ValueError, match=r"track_running_stats=False"):
        reestimate_batch_norm(model, [torch.zeros(2, 2)], layers=[model[0]])


def _half_of_the_data(rank, results):
    for name, shares in (("no rows", ([X], [X[:0]])), ("no batch", ([X], [])), ("nothing at all", ([], [X[:0]]))):
        model = nn.Sequential(nn.SyncBatchNorm(6))
        try:
            reestimate_batch_norm(model, shares[rank], layers=[model[0]])
            results[rank, name] = [model[0].running_mean, model[0].running_var]
        except ValueError as error:
            results[rank, name] = str(error)


X = 100 + torch.randn(101, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_a_process_may_have_no_data():
    found = in_two_processes(_half_of_the_data)
    for rank, name in itertools.product((0, 1), ("no rows", "no batch")):
        torch.testing.assert_close(found[rank, name], [X.mean(0), X.var(0)], rtol=1e-5, atol=1e-5)
    assert all("saw 0 values a channel" in found[rank, "nothing at all"] for rank in (0, 1))

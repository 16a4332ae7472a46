"""Tests of ops inside a CUDA graph: nothing waits for the host, and a replay uses the current values of the inputs."""

import pytest
import torch

import orthohash_triton as oht
from orthohash_triton import make_codebook

pytestmark = pytest.mark.gpu


def captured(step):
    """Return a CUDA graph of `step` and its results. PyTorch requires a first run on another stream."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


@pytest.mark.parametrize("queries", [1, 40])  # the paths for one query and for tensor cores
def test_search(queries, device):
    asked, gallery = (torch.randint(0, 256, (count, 8), dtype=torch.uint8, device=device) for count in (queries, 30_000))
    graph, found = captured(lambda: oht.hamming_topk(asked, gallery, 10))
    for _ in range(2):
        asked.random_(0, 256)
        graph.replay()
        for ours, expected in zip(found, oht.hamming_topk(asked, gallery, 10, impl="reference"), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize(("classes", "bits"), [(100, 64), (5000, 200)])  # one launch, and chunks of classes
def test_training_step(classes, bits, device):
    codebook = make_codebook(classes, bits, method="bernoulli", seed=0).to(device)
    latent = torch.randn(48, bits, device=device, requires_grad=True)
    target = torch.randint(0, classes, (48,), device=device)
    mean, variance = torch.zeros(bits, device=device), torch.ones(bits, device=device)

    def step(impl="auto", running=(mean, variance)):
        loss = oht.orthohash_loss(latent, target, codebook, *running, impl=impl)
        return loss, *torch.autograd.grad(loss, latent)

    graph, found = captured(step)
    for _ in range(2):
        with torch.no_grad():
            latent.normal_()
        target.random_(0, classes)
        graph.replay()
        for ours, expected in zip(found, step("reference", (mean.clone(), variance.clone())), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)

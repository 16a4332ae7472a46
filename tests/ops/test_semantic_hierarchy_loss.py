"""Tests of SHREWD's loss: both terms against explicit loops and the reference, and the divergence against known values."""

import itertools
import math

import pytest
import torch

from orthohash_triton.nn.hierarchy import SemanticHierarchyLoss
from orthohash_triton.ops import semantic_hierarchy_loss as module
from orthohash_triton.ops.semantic_hierarchy_loss import semantic_hierarchy_loss
from orthohash_triton.reference import semantic_hierarchy_loss as truth

DISTANCE = torch.tensor([[0, 0.25, 1], [0.25, 0, 1], [1, 1, 0]], dtype=torch.float64)


def case(rows=9, bits=6, classes=5, draws=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z = torch.tanh(torch.randn(rows, bits, generator=generator, dtype=dtype))
    target = torch.randint(0, classes, (rows,), generator=generator)
    distance = torch.rand(classes, classes, generator=generator, dtype=dtype)
    distance = (distance + distance.T).fill_diagonal_(0) / 2
    flips = 2 * torch.randint(0, 2, (draws, bits), generator=generator).to(dtype) - 1
    return z.requires_grad_(), target, distance, flips


def value_and_gradient(loss, z):
    return loss.detach(), torch.autograd.grad(loss, z)[0]


def loops(z, d, draws, scale, relational_weight, kl_weight, pair_decay, distance_floor):
    """Compute the formulas of the docstring and their derivatives, number by number. d is [N][N], and None omits a pair."""
    rows, bits = len(z), len(z[0])
    gradient = [[0.0] * bits for _ in range(rows)]
    pairs = [(b, c) for b, c in itertools.permutations(range(rows), 2) if d[b][c] is not None]
    total = sum(math.exp(-pair_decay * d[b][c]) for b, c in pairs)
    relational = 0.0
    for b, c in pairs:
        weight = math.exp(-pair_decay * d[b][c]) / total
        error = scale * sum(abs(z[b][k] - z[c][k]) for k in range(bits)) - d[b][c]
        relational += weight * abs(error)
        for k in range(bits):
            slope = relational_weight * weight * scale * math.copysign(1, error) * math.copysign(1, z[b][k] - z[c][k])
            gradient[b][k] += slope
            gradient[c][k] -= slope
    divergence = math.log(len(draws) / (rows - 1)) / bits
    for b in range(rows):
        nu, t = min((math.dist(z[b], draw), j) for j, draw in enumerate(draws))
        rho, c = min((math.dist(z[b], z[j]), j) for j in range(rows) if j != b)
        divergence += 1 / rows * (math.log(max(nu, distance_floor)) - math.log(max(rho, distance_floor)))
        for k in range(bits):
            if nu > distance_floor:
                gradient[b][k] += kl_weight / rows * (z[b][k] - draws[t][k]) / nu**2
            if rho > distance_floor:
                gradient[b][k] -= kl_weight / rows * (z[b][k] - z[c][k]) / rho**2
                gradient[c][k] += kl_weight / rows * (z[b][k] - z[c][k]) / rho**2
    return relational_weight * relational + kl_weight * divergence, gradient


OPTIONS = [
    {},
    {"relational_weight": 0.0, "kl_weight": 2.0},
    {"relational_weight": 3.0, "kl_weight": 0.0},
    {"pair_decay": 0.0},
    {"pair_decay": 10.0},
    {"scale": 0.3},
    {"distance_floor": 2.0, "kl_weight": 1.0},  # the floor is above some of the nearest distances and below others
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [{}, {"rows": 2}, {"bits": 1, "draws": 1}, {"rows": 40, "bits": 17, "draws": 90}])
def test_against_loops_and_the_reference(options, shape):
    z, target, distance, flips = case(**shape)
    samples = distance[target][:, target]
    settings = {"scale": float(distance.mean()) / z.shape[1], **options}
    loss, gradient = value_and_gradient(semantic_hierarchy_loss(z, target, distance, binary_target=flips, **options), z)

    known = {"relational_weight": 1.0, "kl_weight": 0.01, "pair_decay": 2.0, "distance_floor": 1e-3, **settings}
    expected, slopes = loops(z.tolist(), samples.tolist(), flips.tolist(), **known)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64), rtol=1e-9, atol=1e-12)

    expected, slopes = value_and_gradient(truth.semantic_hierarchy_loss(z, samples, flips, **settings), z)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-12)


def test_gradient_is_that_of_finite_differences():
    z, target, distance, flips = case()
    assert torch.autograd.gradcheck(lambda z: semantic_hierarchy_loss(z, target, distance, binary_target=flips, kl_weight=1.0), z)


def test_by_hand():
    z = torch.tensor([[1, 1], [1, -1], [-1, 0]], dtype=torch.float64)
    draws = torch.tensor([[1, 1], [-1, -1]], dtype=torch.float64)
    target = torch.tensor([0, 1, 2])
    # Manhattan distances 2, 3, 3; times 1/4: 1/2, 3/4, 3/4; semantic 1/4, 1, 1: every error is 1/4.
    by_hand = {"relational_weight": 1.0, "kl_weight": 0.0, "scale": 0.25}
    assert float(semantic_hierarchy_loss(z, target, DISTANCE, **by_hand)) == pytest.approx(1 / 4)
    # With scale 1/3 they are 5/12, 0, 0. Equal weights: a third of 5/12; weights 4^(-4 d): 1/4, 1/256, 1/256.
    by_hand |= {"scale": 1 / 3, "pair_decay": 0.0}
    assert float(semantic_hierarchy_loss(z, target, DISTANCE, **by_hand)) == pytest.approx(5 / 36)
    by_hand |= {"pair_decay": 4 * math.log(4)}
    assert float(semantic_hierarchy_loss(z, target, DISTANCE, **by_hand)) == pytest.approx(5 / 12 * 64 / 66)
    # Nearest draws at (0 -> the floor), 2 and 1; nearest others at 2, 2, sqrt(5); M / (N - 1) = 1.
    nearest = (math.log(0.1) + math.log(2) + math.log(1)) - (2 * math.log(2) + math.log(5) / 2)
    by_hand = {"relational_weight": 0.0, "kl_weight": 1.0, "binary_target": draws, "distance_floor": 0.1}
    assert float(semantic_hierarchy_loss(z, target, DISTANCE, **by_hand)) == pytest.approx(nearest / 3)


def test_scale_lets_random_codes_be_as_far_apart_as_their_classes():
    z = 2 * torch.randint(0, 2, (600, 32)).double() - 1
    target = torch.arange(600) % 3
    semantic = DISTANCE[target][:, target]
    for known in ((target, DISTANCE), (torch.eye(3)[target], DISTANCE)):
        # |R| as a function of the scale is the same as that of the default at the mean distance over K.
        scale = float(semantic.sum()) / (600 * 599 if known[0].ndim == 2 else 600 * 600) / 32
        given = semantic_hierarchy_loss(z, *known, kl_weight=0.0, scale=scale)
        torch.testing.assert_close(semantic_hierarchy_loss(z, *known, kl_weight=0.0), given, rtol=1e-12, atol=0)
        assert scale * float(torch.cdist(z, z, p=1).mean()) == pytest.approx(float(semantic.mean()), rel=0.01)


def divergence(z, draws):
    unused = torch.zeros(len(z), len(z))
    keywords = {"relational_weight": 0.0, "kl_weight": z.shape[1], "distance_floor": 1e-12}
    return float(semantic_hierarchy_loss(z, pair_distance=unused, binary_target=draws, **keywords))


@pytest.mark.parametrize(
    ("bits", "rows", "draws", "tolerance"), [(1, 3000, 3000, 0.1), (2, 3000, 1500, 0.12), (4, 3000, 3000, 0.35)]
)
def test_divergence_of_two_gaussians(bits, rows, draws, tolerance):
    # D(N(m, s^2) || N(0, 1)) = (s^2 + m^2 - 1)/2 - log s for each of the independent bits.
    mean, deviation = 0.6, 0.5
    exact = bits * ((deviation**2 + mean**2 - 1) / 2 - math.log(deviation))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        z = mean + deviation * torch.randn(rows, bits, generator=generator, dtype=torch.float64)
        target = torch.randn(draws, bits, generator=generator, dtype=torch.float64)
        assert divergence(z, target) == pytest.approx(exact, abs=tolerance)
        if bits == 1:
            assert divergence(target, z) > exact + 0.3  # D(q || p) differs, and is larger in this case


def test_divergence_of_equal_distributions_is_about_zero():
    estimates = [divergence(*torch.rand(2, 1000, 3, dtype=torch.float64)) for _ in range(8)]
    assert sum(estimates) / 8 == pytest.approx(0, abs=0.06)


def test_bias_of_the_divergence_falls_with_the_batch():
    exact = 5 * 0.5  # N(1, 1) against N(0, 1) in each of 5 bits

    def bias(rows, repeats):
        z, draws = torch.randn(2, repeats, rows, 5, dtype=torch.float64)
        return abs(sum(divergence(1 + a, b) for a, b in zip(z, draws, strict=True)) / repeats - exact)

    few, many = bias(20, 200), bias(1500, 6)
    assert few > 0.3
    assert many < 0.5 * few


def test_equal_codes_and_codes_on_a_draw_are_finite():
    _, target, distance, flips = case(rows=8)
    for z in (torch.zeros(8, 6), flips[:1].repeat(8, 1), flips[[0, 1, 2, 3, 0, 1, 2, 3]]):
        z = z.double().requires_grad_()
        loss, gradient = value_and_gradient(semantic_hierarchy_loss(z, target, distance, binary_target=flips), z)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        expected, slopes = value_and_gradient(truth.semantic_hierarchy_loss(
            z, distance[target][:, target], flips, scale=float(distance.mean()) / 6), z)  # fmt: skip
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, slopes)


def test_near_codes_keep_their_precision():
    # Codes 1e-4 apart at length 4: through |a|^2 + |b|^2 - 2ab float32 would see differences of 1e-3 at best.
    base = torch.ones(1, 16) * 0.9
    z = torch.cat([base, base + 1e-4, base - 3e-4, -base])
    draws = torch.cat([base + 5e-4, -base + 2e-4])
    args = {"pair_distance": torch.ones(4, 4), "relational_weight": 0.0, "kl_weight": 1.0, "distance_floor": 1e-8}
    loss = semantic_hierarchy_loss(z, binary_target=draws, **args)
    expected = semantic_hierarchy_loss(z.double(), binary_target=draws.double(), **args)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=0)


def minimised(kl_weight, target, bits=12):
    latent = torch.nn.Parameter(0.1 * torch.randn(len(target), bits, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam([latent], lr=0.1)
    draws = torch.Generator().manual_seed(0)
    for _ in range(100):
        optimizer.zero_grad()
        semantic_hierarchy_loss(torch.tanh(latent), target, DISTANCE.float(), kl_weight=kl_weight, generator=draws).backward()
        optimizer.step()
    return torch.tanh(latent).detach().sign()


def test_minimising_it_follows_the_hierarchy_and_spreads_the_codes():
    target = torch.arange(48) % 3
    spread = []
    for kl_weight in (0.0, 0.02):
        codes = minimised(kl_weight, target)
        hamming = torch.cdist(codes, codes, p=1) / 2
        within, near, far = (float(hamming[DISTANCE[target][:, target] == d].mean()) for d in (0, 0.25, 1))
        assert within < near < far
        spread.append((len(codes.unique(dim=0)), -float(codes.mean(0).abs().mean())))
    alone, with_divergence = spread
    assert with_divergence[0] > alone[0]  # more codes are in use
    assert with_divergence[1] > alone[1]  # and the bits are better balanced


def sets_case(rows=12, classes=6):
    z, _, distance, flips = case(rows=rows, classes=classes)
    sets = torch.rand(rows, classes, generator=torch.Generator().manual_seed(1)) < 0.4
    return z, sets, distance, flips


def test_distances_of_label_sets_by_hand():
    # {0, 1} and {2}: 1. {0, 1} and {1, 2}: (1/4 + 0 + 0 + 1)/4. {1, 2} and {2}: (1 + 0)/2 one way, 0 the other.
    sets = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]])
    expected = torch.tensor([[0, 1, 5 / 16], [1, 0, 1 / 4], [5 / 16, 1 / 4, 0]], dtype=torch.float64)
    distance = truth.label_set_distance(sets, DISTANCE)
    torch.testing.assert_close(distance[:3, :3], expected)
    assert distance[3].isnan().all()
    torch.testing.assert_close(module._label_set_distance(sets.bool(), DISTANCE)[:3, :3], expected)


@pytest.mark.parametrize("chunk", [2**25, 1])
def test_multi_hot_targets(chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    z, sets, distance, flips = sets_case()
    sets[3] = False
    samples = truth.label_set_distance(sets, distance)
    given = samples[~samples.isnan() & ~torch.eye(len(z), dtype=torch.bool)]
    expected, slopes = value_and_gradient(
        truth.semantic_hierarchy_loss(z, samples, flips, scale=float(given.mean()) / z.shape[1]), z
    )
    for target in (sets, sets.long(), sets.half()):
        loss, gradient = value_and_gradient(semantic_hierarchy_loss(z, target, distance, binary_target=flips), z)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-12)


def test_class_ids_one_hot_rows_and_pair_distances_agree():
    z, target, distance, flips = case()
    keywords = {"binary_target": flips, "scale": 0.1}
    expected = semantic_hierarchy_loss(z, target, distance, **keywords)
    one_hot = torch.nn.functional.one_hot(target, 5)
    torch.testing.assert_close(semantic_hierarchy_loss(z, one_hot, distance, **keywords), expected)
    pairs = distance[target][:, target] + torch.eye(9)  # the diagonal is not used
    torch.testing.assert_close(semantic_hierarchy_loss(z, pair_distance=pairs, **keywords), expected)
    scaled = semantic_hierarchy_loss(z, pair_distance=pairs, binary_target=flips)
    mean = float(pairs[~torch.eye(9, dtype=torch.bool)].mean())
    torch.testing.assert_close(scaled, semantic_hierarchy_loss(z, target, distance, binary_target=flips, scale=mean / 6))


def test_without_any_label_only_the_divergence_is_left():
    z, _, distance, flips = case()
    loss = semantic_hierarchy_loss(z, torch.zeros(9, 5), distance, binary_target=flips, kl_weight=0.5)
    expected = semantic_hierarchy_loss(z, torch.zeros(9, 5), distance, binary_target=flips, relational_weight=0.0, kl_weight=0.5)
    torch.testing.assert_close(loss, expected)
    assert loss != 0


def test_draws_are_fair_coin_flips():
    z, target, distance, _ = case(rows=200, bits=40)
    flips = module._coin_flips(500, z, None)
    assert flips.dtype == z.dtype
    assert flips.abs().eq(1).all()
    assert abs(float(flips.mean())) < 0.03
    again = [semantic_hierarchy_loss(z, target, distance, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
    few = semantic_hierarchy_loss(z, target, distance, draws=3, generator=torch.Generator().manual_seed(1), relational_weight=0.0)
    flips = module._coin_flips(3, z, torch.Generator().manual_seed(1))
    torch.testing.assert_close(few, semantic_hierarchy_loss(z, target, distance, binary_target=flips, relational_weight=0.0))


def test_given_draws_leave_the_generator_alone_and_get_no_gradient():
    z, target, distance, flips = case()
    state = torch.get_rng_state()
    flips.requires_grad_()
    semantic_hierarchy_loss(z, target, distance, binary_target=flips).backward()
    assert flips.grad is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_dtypes(dtype, tolerance):
    z, target, distance, flips = case(rows=30, bits=16, draws=30)
    low = z.detach().to(dtype).requires_grad_()
    loss = semantic_hierarchy_loss(low, target, distance.to(dtype), binary_target=flips.to(dtype))
    loss.backward()
    expected = semantic_hierarchy_loss(z.detach(), target, distance, binary_target=flips)
    assert loss.dtype == torch.float32
    assert low.grad.dtype == dtype
    assert float(loss.detach()) == pytest.approx(float(expected), rel=tolerance)


def test_autocast_changes_nothing():
    z, target, distance, flips = (t.float() if t.is_floating_point() else t for t in case(rows=30))
    for known in ((target, distance), (torch.nn.functional.one_hot(target, 5), distance)):
        expected = semantic_hierarchy_loss(z, *known, binary_target=flips)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(semantic_hierarchy_loss(z, *known, binary_target=flips), expected)


def test_compiles_without_a_break():
    z, target, distance, flips = case(rows=20, dtype=torch.float32)
    compiled = torch.compile(semantic_hierarchy_loss, fullgraph=True, backend="aot_eager")
    for known in ((target, distance), (torch.nn.functional.one_hot(target, 5), distance)):
        loss, gradient = value_and_gradient(compiled(z, *known, binary_target=flips), z)
        expected, slopes = value_and_gradient(semantic_hierarchy_loss(z, *known, binary_target=flips), z)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient, slopes)
    assert compiled(z, target, distance).isfinite()  # with other random numbers


def test_module():
    z, target, distance, flips = case()
    criterion = SemanticHierarchyLoss(distance, binary_target=flips, pair_decay=1.0)
    expected = semantic_hierarchy_loss(z, target, distance, binary_target=flips, pair_decay=1.0)
    assert torch.equal(criterion(z, target), expected)
    assert list(criterion.state_dict()) == ["class_distance"]
    assert "classes=5" in repr(criterion)
    assert "pair_decay=1.0" in repr(criterion)
    criterion = SemanticHierarchyLoss(scale=0.1, binary_target=flips)
    pairs = distance[target][:, target]
    expected = semantic_hierarchy_loss(z, pair_distance=pairs, scale=0.1, binary_target=flips)
    assert torch.equal(criterion(z, pair_distance=pairs), expected)


def test_a_wrong_id_is_nan_where_values_may_not_be_read(monkeypatch):
    z, target, distance, flips = case()
    target[3] = 5
    monkeypatch.setattr(module.checks, "may_read_values", lambda tensor: False)
    assert semantic_hierarchy_loss(z, target, distance, binary_target=flips).isnan()


@pytest.mark.parametrize("weights", [{"relational_weight": 0.0}, {"kl_weight": 0.0}, {}], ids=str)
@pytest.mark.parametrize("value", [0.5, torch.nan, torch.inf])
def test_ignored_rows_take_no_part_whatever_they_hold(value, weights):
    z, target, distance, flips = case()
    ignored = torch.tensor([1, 4])
    kept = torch.tensor([n for n in range(len(z)) if n not in ignored])
    with torch.no_grad():
        z[ignored] = value
    target[ignored] = -7
    scale = float(distance.mean()) / z.shape[1]
    options = dict(binary_target=flips, scale=scale, ignore_index=-7, **weights)
    found = value_and_gradient(semantic_hierarchy_loss(z, target, distance, **options), z)
    part = z.detach()[kept].requires_grad_()
    exact = value_and_gradient(semantic_hierarchy_loss(part, target[kept], distance, **options), part)
    torch.testing.assert_close(found[0], exact[0])
    torch.testing.assert_close(found[1][kept], exact[1])
    assert (found[1][ignored] == 0).all()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("by", ["class", "pair"])
def test_without_two_rows_there_is_a_zero_with_a_gradient(rows, by):
    z = torch.randn(rows, 8).requires_grad_()
    pairs = {"pair_distance": torch.ones(rows, rows)}
    given = {"target": IDS[:rows], "class_distance": D} if by == "class" else pairs
    loss = semantic_hierarchy_loss(z, **given)
    assert loss == 0
    loss.backward()
    assert (z.grad == 0).all()


@pytest.mark.parametrize("known", [0, 1])
def test_without_two_known_rows_the_loss_is_zero_too(known):
    z, target, distance, _ = case()
    target[known:] = -100
    loss, gradient = value_and_gradient(semantic_hierarchy_loss(z, target, distance), z)
    assert loss == 0
    assert (gradient == 0).all()


def test_codes_of_any_finite_size():
    """In float32 the squares of these codes overflow; float64 holds them."""
    z, target, distance, flips = case()
    large = (z.detach() * 1e25).float()
    options = dict(scale=1e-25, kl_weight=1.0)
    found, gradient = value_and_gradient(
        semantic_hierarchy_loss(large.requires_grad_(), target, distance.float(), binary_target=flips.float(), **options), large
    )
    exact = large.detach().double().requires_grad_()
    expected = value_and_gradient(semantic_hierarchy_loss(exact, target, distance, binary_target=flips, **options), exact)
    torch.testing.assert_close(found.double(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double() * 1e25, expected[1] * 1e25, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_codes_that_are_not_finite_are_not_hidden(value):
    z, target, distance, flips = case()
    z = z.detach()
    z[2, 1] = value
    for weights in ({"relational_weight": 0.0}, {"kl_weight": 0.0}):
        assert semantic_hierarchy_loss(z, target, distance, binary_target=flips, **weights).isnan()


ROWS = torch.zeros(4, 8)
IDS = torch.tensor([0, 1, 2, 0])
D = DISTANCE.float()


@pytest.mark.parametrize(
    ("args", "keywords", "error", "message"),
    [
        ((ROWS[:, :0], IDS, D), {}, ValueError, "z must have at least one bit; got float32 [4, 0]"),
        ((ROWS[0], IDS, D), {}, ValueError, "z must be a tensor [N, K]"),
        ((ROWS.int(), IDS, D), {}, TypeError, "z must be a tensor [N, K]"),
        ((ROWS,), {}, ValueError, "give either target and class_distance, or pair_distance; got none of them"),
        ((ROWS, IDS), {}, ValueError, "or pair_distance; got target"),
        ((ROWS, None, D), {}, ValueError, "or pair_distance; got class_distance"),
        ((ROWS, IDS, D), {"pair_distance": torch.zeros(4, 4)}, ValueError, "got target, class_distance, pair_distance"),
        ((ROWS,), {"pair_distance": torch.zeros(4, 3)}, ValueError, "pair_distance must be [4, 4]; got float32 [4, 3]"),
        ((ROWS,), {"pair_distance": -torch.ones(4, 4)}, ValueError, "pair_distance has negative entries (smallest -1)"),
        ((ROWS,), {"pair_distance": torch.full((4, 4), torch.nan)}, ValueError, "pair_distance has entries that are NaN"),
        ((ROWS, IDS, D[:2]), {}, ValueError, "class_distance must be [C, C]; got float32 [2, 3]"),
        ((ROWS, IDS, D[:0, :0]), {}, ValueError, "class_distance must be [C, C]; got float32 [0, 0]"),
        ((ROWS, IDS, D.long()), {}, TypeError, "class_distance must be a tensor [C, C]"),
        ((ROWS, IDS, 1 - D), {}, ValueError, "class_distance must have a zero diagonal"),
        ((ROWS, IDS, D.triu()), {}, ValueError, "class_distance must be symmetric"),
        ((ROWS, IDS, D.to("meta")), {}, ValueError, "class_distance is on meta, z on cpu"),
        ((ROWS, IDS.int(), D), {}, TypeError, "target must be int64 class ids [4].*Convert class ids with .long()"),
        ((ROWS, [0, 1, 2, 0], D), {}, TypeError, "target must be int64 class ids [4]"),
        ((ROWS, IDS[:3], D), {}, ValueError, "target must be int64 class ids [4]"),
        ((ROWS, torch.zeros(4, 2), D), {}, ValueError, "multi-hot rows [4, 3] of 0 and 1, as class_distance is [3, 3]"),
        ((ROWS, torch.full((4, 3), 0.5), D), {}, ValueError, "a multi-hot target must hold only 0 and 1"),
        ((ROWS, IDS + 1, D), {}, ValueError, "target has class 3; expected ids from 0 to 2 or ignore_index = -100"),
        ((ROWS, IDS, D), {"ignore_index": 0.5}, TypeError, "ignore_index must be an integer; got float 0.5"),
        ((ROWS, IDS - 1, D), {}, ValueError, "target has class -1"),
        ((ROWS, IDS, D), {"kl_weight": -1.0}, ValueError, "kl_weight must be at least 0 and finite; got -1.0"),
        ((ROWS, IDS, D), {"relational_weight": math.inf}, ValueError, "relational_weight must be at least 0 and finite"),
        ((ROWS, IDS, D), {"pair_decay": math.nan}, ValueError, "pair_decay must be at least 0 and finite; got nan"),
        ((ROWS, IDS, D), {"scale": 0.0}, ValueError, "scale must be positive and finite; got 0.0"),
        ((ROWS, IDS, D), {"distance_floor": 0.0}, ValueError, "distance_floor must be at least 1e-15 and finite; got 0.0"),
        ((ROWS, IDS, D), {"draws": 0}, ValueError, "draws must be at least 1; got 0"),
        ((ROWS, IDS, D), {"binary_target": torch.ones(3, 7)}, ValueError, "binary_target must be [M, 8] with M > 0"),
        ((ROWS, IDS, D), {"binary_target": torch.ones(0, 8)}, ValueError, "binary_target must be [M, 8] with M > 0"),
        ((ROWS, IDS, D), {"binary_target": torch.ones(3, 8).int()}, TypeError, "binary_target must be a tensor [M, K]"),
    ],
)
def test_errors(args, keywords, error, message):
    with pytest.raises(error) as raised:
        semantic_hierarchy_loss(*args, **keywords)
    assert str(raised.value).startswith("semantic_hierarchy_loss: ")
    for part in message.split(".*"):
        assert part in str(raised.value)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 100.0, 1000.0])
def test_far_pairs_keep_their_weights(unit):
    """e^-1000 underflows, so weights must be relative to the nearest pair."""
    generator = torch.Generator().manual_seed(0)
    distance = unit + torch.rand(9, 9, generator=generator)
    z = torch.rand(9, 16, generator=generator).mul(2).sub(1).requires_grad_()
    loss = semantic_hierarchy_loss(z, pair_distance=distance, kl_weight=0, scale=0.3)
    (gradient,) = torch.autograd.grad(loss, z)
    pairs = ~torch.eye(9, dtype=torch.bool)
    weights = torch.softmax(-2 * distance[pairs].double(), 0)
    wide = z.detach().double().requires_grad_()
    expected = (weights * (0.3 * torch.cdist(wide, wide, p=1) - distance.double())[pairs].abs()).sum()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient.double(), torch.autograd.grad(expected, wide)[0], rtol=1e-3, atol=1e-5)

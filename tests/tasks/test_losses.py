import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from tasks.losses.bce import BalancedBce
from tasks.losses.dice import Dice
from tasks.losses.regression import L1, Mse
from tasks.parts import Lesson
from tasks.targets.affinities import NEAREST, Affinities
from tasks.targets.boundary import Boundary
from tasks.targets.distances import Distances

DISTANCES = Distances(scale=50)
LOSSES = [BalancedBce(smoothing=0), Dice(), Mse(), L1(), Mse(balance=3), L1(balance=3)]


def row(values, **options):
    return torch.tensor(values, **options).reshape(1, 1, 1, 1, -1)


def lesson(target, known, head=Boundary()):  # noqa: B008 - frozen
    labels = torch.zeros(target.shape[0], *target.shape[2:], dtype=torch.int32)
    return Lesson(target, known, labels, head)


def squashed(nm):
    return (1 + torch.tanh(nm / DISTANCES.scale)) / 2


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_unknown_voxels_have_no_weight_and_what_is_right_costs_nothing(loss):
    logits = row([30.0, -30.0, 5.0, 30.0, -7.0]).requires_grad_()
    target = row([True, False, False, True, True])
    known = row([True, True, False, True, False])
    right = loss(logits, lesson(target, known))
    right.backward()
    assert float(right.detach()) == pytest.approx(0, abs=1e-6)
    assert (logits.grad[~known] == 0).all()
    assert float(loss(logits, lesson(target, torch.zeros_like(known))).detach()) == 0
    assert float(loss(logits, lesson(target, torch.ones_like(known))).detach()) > 0.1


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradients_lead_to_what_is_taught(loss):
    rng = torch.Generator().manual_seed(0)
    target = torch.rand((2, 3, 2, 3, 4), generator=rng) > 0.7
    known = torch.rand(target.shape, generator=rng) > 0.1
    logits = torch.zeros(target.shape, dtype=torch.bfloat16, requires_grad=True)
    loss(logits, lesson(target, known)).backward()
    assert (logits.grad[target & known] < 0).all()
    assert (logits.grad[~target & known] > 0).all()


def test_cross_entropy_is_a_mean_over_what_is_known():
    logits, target = row([3.0, -2.0, 1.0]), row([True, False, True])
    loss = BalancedBce(balance=1, smoothing=0)(logits, lesson(target, row([True, True, False])))
    expected = (np.log1p(np.exp(-3)) + np.log1p(np.exp(-2))) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_smoothing_teaches_what_a_sigmoid_can_reach():
    logits = row([np.log(0.9 / 0.1)], dtype=torch.float32).requires_grad_()
    known = row([True])
    BalancedBce(smoothing=0.1)(logits, lesson(known, known)).backward()
    assert float(logits.grad) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", [BalancedBce, Mse, L1])
def test_the_rarer_class_counts_more_but_not_without_limit(kind):
    target = torch.ones(1, 1, 1, 1, 100, dtype=torch.bool)
    target[..., 0] = False
    logits = torch.zeros(target.shape, requires_grad=True)
    kind(balance=4.0, **{"smoothing": 0} if kind is BalancedBce else {})(
        logits, lesson(target, torch.ones_like(target))
    ).backward()
    gradient = logits.grad.ravel()
    assert float(-gradient[0] / gradient[1]) == pytest.approx(4.0, rel=1e-4)


def test_dice_looks_at_the_rarer_class_of_each_channel():
    target = torch.ones(1, 2, 1, 1, 10, dtype=torch.bool)
    target[0, 0, 0, 0, 0] = False
    target[0, 1, 0, 0, 1:] = False
    logits = torch.full(target.shape, 20.0)
    logits[0, 1] = -20.0
    # Of both channels 90 % are right, but nothing of what is rare.
    assert float(Dice()(logits, lesson(target, torch.ones_like(target)))) == pytest.approx(0.5)


def test_errors_of_distances_are_those_of_tanh():
    nm, logits = row([25.0, -50.0, 10.0]), row([0.5, 1.0, -3.0])
    known = row([True, True, False])
    given = lesson(squashed(nm), known, DISTANCES)
    error = 2 * np.tanh(1)
    assert float(Mse()(logits, given)) == pytest.approx(error**2 / 2, rel=1e-5)
    assert float(L1()(logits, given)) == pytest.approx(error / 2, rel=1e-5)


@pytest.mark.parametrize("loss", [Mse(), L1()])
def test_distances_are_learnt(loss):
    target, known = squashed(row([25.0, -50.0])), row([True, True])
    logits = row([0.0, 0.0]).requires_grad_()
    for _ in range(200):
        gradient = torch.autograd.grad(loss(logits, lesson(target, known, DISTANCES)), logits)[0]
        logits = logits - 0.02 * gradient / gradient.abs().max().clamp(min=1e-3)
    assert logits.ravel().tolist() == pytest.approx([0.5, -1.0], abs=0.05)


@pytest.mark.parametrize("loss", [BalancedBce(), Dice()])
def test_losses_of_classes_refuse_numbers(loss):
    target = squashed(row([25.0]))
    with pytest.raises(ConfigError, match=rf"{loss.kind} is for .*'distances'; use mse or l1"):
        loss(target, lesson(target, row([True]), DISTANCES))


@pytest.mark.parametrize("head", [Affinities(offsets=NEAREST), Boundary(), DISTANCES])
def test_default_losses_fit_their_head(head):
    kinds = {"bce": BalancedBce, "mse": Mse}
    labels = np.ones([4 + 2 * r for r in head.reach((50, 50, 50))], np.int32)
    taught = head.teach(labels, head.reach((50, 50, 50)), (50, 50, 50))
    target, known = torch.from_numpy(taught.target)[None], torch.from_numpy(taught.known)[None]
    for given in head.default_losses():
        loss = kinds[given["kind"]].model_validate(given)
        assert float(loss(torch.zeros(target.shape), lesson(target, known, head))) > 0

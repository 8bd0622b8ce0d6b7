"""Fine-tuning begins with the function of the model, and leaves alone what is frozen."""

import functools
from io import StringIO

import pytest
import torch
from rich.console import Console
from trainings import NEAREST, network, same, weights

from pipeline.errors import ConfigError, ModelError
from tasks.networks.model import Description, Normalisation, load_network, save_model
from tasks.train.config import Training
from tasks.train.loop import train
from tasks.train.state import create

pytestmark = pytest.mark.usefixtures("one_thread")

QUIET = Console(quiet=True)
RAW = torch.randn(1, 1, 22, 22, 22, generator=torch.Generator().manual_seed(1))


def save(folder, one: Training, module, half=False):
    """A model directory of what a training would make of `module`."""
    description = Description(
        network=one.network,
        heads=one.heads,
        voxel_size=(10, 10, 10),
        dtype="uint8",
        normalisation=Normalisation(mean=128, std=30),
    )
    save_model(folder, description, one.network.folded(module), half=half)
    return str(folder)


def randomised(one):
    """A network of training that has been trained, as it were: no weight is what it began with."""
    module = create(one).network
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
            elif name.endswith("running_mean"):
                buffer.uniform_(-1, 1, generator=generator)
    return module


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "structure", [{}, {"residual": True, "skips": "concat", "upsampling": "transposed"}]
)
def test_standardised_weights_compute_what_the_model_computes(config, tmp_path, structure, half):
    one = config(network=network(**structure))
    model = save(tmp_path / "first", one, randomised(one), half)
    network_ = create(config(network=network(**structure), init=model, seed=9)).network
    expected = load_network(tmp_path / "first")[1]
    with torch.no_grad():
        found, wanted = network_.deep(RAW)[0], expected.deep(RAW)[0]
    for name, logits in wanted.items():
        tolerance = 2e-2 if half else 1e-4
        torch.testing.assert_close(found[name], logits, rtol=tolerance, atol=tolerance)
    # A gain or a weight that is off by a little would show here.
    folded, plain = one.network.folded(network_), expected.state_dict()
    for name, weight in plain.items():
        torch.testing.assert_close(folded[name], weight, rtol=1e-4, atol=3e-4 if half else 1e-6)


def test_batch_norm_computes_what_the_model_computes_in_evaluation(config, tmp_path):
    one = config(network=network(norm="batch"))
    model = save(tmp_path / "first", one, randomised(one).eval())
    found = create(config(network=network(norm="batch"), init=model)).network.eval()
    expected = load_network(tmp_path / "first")[1]
    with torch.no_grad():
        torch.testing.assert_close(
            found.deep(RAW)[0]["far"], expected.deep(RAW)[0]["far"], rtol=1e-3, atol=1e-3
        )


def test_a_kernel_that_died_stays_dead(config, tmp_path):
    one = config()
    module = create(one).network
    with torch.no_grad():
        module.bottom.convs[0].gain[3] = 0
    found = create(config(init=save(tmp_path / "first", one, module))).network
    kernels = found.bottom.convs[0].standardised()
    assert not kernels[3].any()
    torch.testing.assert_close(kernels, module.bottom.convs[0].standardised())


def test_kernels_that_cannot_be_standardised_are_refused(config, tmp_path):
    batch = config(network=network(norm="batch"))
    model = save(tmp_path / "first", batch, randomised(batch))
    with pytest.raises(ConfigError, match=r"kernels of .* have means .*normalisation that the"):
        create(config(init=model))


def test_other_heads_are_learnt_anew_and_named(config, tmp_path):
    one = config()
    model = save(tmp_path / "first", one, randomised(one))
    heads = {
        "affinities": {"kind": "affinities", "offsets": NEAREST},
        "far": {"kind": "affinities", "offsets": [[0, 0, -3], [0, -3, 0]]},
        "boundary": {"kind": "boundary"},
    }
    other = config(heads=heads, losses={}, init=model)
    loaded = create(other).loaded
    assert loaded.new == [
        f"heads.{head}.{name}" for head in ("boundary", "far") for name in ("bias", "weight")
    ]
    assert loaded.unused == [
        f"heads.{head}.{name}" for head in ("distances", "far") for name in ("bias", "weight")
    ]
    text = StringIO()
    train(other, Console(file=text, width=300))
    assert "learnt anew: heads.boundary.bias" in text.getvalue()
    assert f"weights are those of {model}" in text.getvalue()


def test_nothing_in_common_is_refused(config, tmp_path):
    wide = {"channels": 6, "factor": [2, 2, 2], "down": [[1, 3, 3]], "up": [[1, 3, 3]]}
    bottom = {"channels": 5, "kernels": [[3, 3, 3]]}
    heads = {"boundary": {"kind": "boundary"}}
    one = config(network=network(levels=[wide], bottom=bottom), heads=heads, losses={})
    model = save(tmp_path / "first", one, create(one).network)
    with pytest.raises(ConfigError, match=r"init: no weight of .* has the name and shape"):
        create(config(init=model))


def test_a_model_that_is_missing_is_named(config):
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        create(config(init="nowhere"))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_what_is_frozen_stays_what_it_was(config, tmp_path, norm):
    structure = {"network": network(norm=norm)}
    before = create(config(**structure)).network.state_dict()
    folder = train(config(freeze=["sides.*", "heads.far.*"], **structure), QUIET)
    plain = config(**structure).network.folded(create(config(**structure)).network.eval())
    after = weights(folder)
    assert len(before) >= len(after)
    for name, value in after.items():
        frozen = name.startswith(("sides.", "heads.far."))
        assert torch.equal(value, plain[name].half().float()) == frozen, name


def test_fine_tuning_goes_on_without_the_model(config, tmp_path):
    one = config()
    model = save(tmp_path / "first", one, randomised(one))
    fine = functools.partial(config, init=model, output=str(tmp_path / "fine"))
    whole = train(fine(steps=6, output=str(tmp_path / "whole")), QUIET)
    train(fine(steps=6, minutes=1e-9), QUIET)
    (tmp_path / "first/model.yaml").unlink()
    folder = train(fine(steps=6), QUIET)
    assert weights(folder).keys() == weights(whole).keys()


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["side.*"], r"freeze: 'side\.\*' matches no parameter; names begin with bottom.convs, "),
        (["*"], r"freeze leaves no parameter to train"),
    ],
)
def test_freezing_what_is_not_there_or_everything_is_refused(config, patterns, message):
    with pytest.raises(ConfigError, match=message):
        create(config(freeze=patterns))


def test_equal_seeds_and_models_give_equal_networks(config, tmp_path):
    one = config()
    model = save(tmp_path / "first", one, randomised(one))
    a, b = (create(config(init=model)).network.state_dict() for _ in range(2))
    assert same(a, b)

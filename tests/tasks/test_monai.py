import sys

import numpy as np
import pytest
import torch
from alive import Alive
from pydantic import ValidationError
from torch import nn

from pipeline.errors import ConfigError, ModelError
from tasks.networks.measure import check_local, features_at, measure_context, total_stride
from tasks.networks.model import Description, Normalisation, load_network, save_model
from tasks.networks.monai import MonaiNetwork
from tasks.networks.predictor import Predictor
from tasks.targets.affinities import NEAREST, Affinities


class Known(nn.Module):
    """Padded layers whose stride and context are easily found by hand."""

    def __init__(self, width=2):
        super().__init__()
        self.first = nn.Conv3d(1, width, (1, 3, 3), padding=(0, 1, 1))
        self.pool = nn.MaxPool3d((1, 2, 4))
        self.low = nn.Conv3d(width, width, 3, padding=1)
        self.up = nn.ConvTranspose3d(width, width, (1, 2, 4), (1, 2, 4))

    def forward(self, x):
        return self.up(torch.relu(self.low(self.pool(torch.relu(self.first(x))))))


def test_stride_and_context_are_found_by_trying():
    body = Known()
    stride = total_stride("Known", body)
    assert stride == (1, 2, 4)
    # One voxel of z; in y and x one voxel of the lower level and one of the upper, rounded up.
    assert measure_context("Known", body, stride, 2).context == (1, 4, 8)


def test_features_are_counted_without_computing():
    found = list(features_at(Known(), (4, 8, 8)))
    assert ((4, 4, 2), 2) in found
    assert max(channels for _, channels in found) == 2


class GlobalMean(Known):
    """Nothing in its layers tells that it looks at the whole tile."""

    def forward(self, x):
        return super().forward(x) + x.mean()


class AlignedCorners(Known):
    def forward(self, x):
        low = self.low(self.pool(self.first(x)))
        return nn.functional.interpolate(
            low, scale_factor=(1.0, 2.0, 4.0), mode="trilinear", align_corners=True
        )


class Odd(Known):
    def forward(self, x):
        return [super().forward(x)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (GlobalMean(), r"sees more than 512 voxels to each side along axis z, perhaps the whole"),
        (AlignedCorners(), r"something else of the same voxels in another tile.*aligns corners"),
        (Odd(), r"does not give 2 feature maps as large as its input; leave out deep"),
    ],
    ids=["global", "aligned", "list"],
)
def test_networks_that_depend_on_the_tile_are_refused(body, message):
    with pytest.raises(ModelError, match=message):
        measure_context("it", body, (1, 2, 4), 2)


@pytest.mark.parametrize(
    "layer", [nn.InstanceNorm3d(2), nn.GroupNorm(1, 2), nn.AdaptiveAvgPool3d(1)], ids=repr
)
def test_layers_that_depend_on_the_tile_are_refused(layer):
    with pytest.raises(ModelError, match=rf"has a {type(layer).__name__} \(1\).*norm: batch"):
        check_local("it", nn.Sequential(Known(), layer))


def test_a_network_for_one_size_is_refused():
    class Fixed(Known):
        def forward(self, x):
            return super().forward(x) + torch.zeros(1, 1, 64, 64, 64, device=x.device)

    with pytest.raises(ModelError, match=r"does not run on a tile of 192³ voxels"):
        total_stride("Fixed", Fixed())


def test_without_monai_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'raphe\[monai\]'"):
        MonaiNetwork(name="BasicUNet").body()


def test_what_raphe_sets_may_not_be_given():
    with pytest.raises(ValidationError, match=r"out_channels: set by Raphe \(width is"):
        MonaiNetwork(name="BasicUNet", arguments={"out_channels": 3})
    for pretrained in ("pretrained", "pretrained_url"):
        with pytest.raises(ValidationError, match=r"pretrained.*: weights come from a model dir"):
            MonaiNetwork(name="FlexibleUNet", arguments={pretrained: "https://example.org/x.pt"})


DYNUNET = {
    "kernel_size": [[1, 3, 3], [3, 3, 3], [1, 3, 3]],
    "strides": [1, [1, 2, 2], 1],
    "upsample_kernel_size": [[1, 2, 2], 1],
    "norm_name": "batch",
    "filters": [4, 6, 6],
}


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("monai")
    return MonaiNetwork(name="DynUNet", arguments=DYNUNET, width=5)


def description(network):
    return Description(
        network=network,
        heads={"affinities": Affinities(offsets=NEAREST)},
        voxel_size=(40, 10, 10),
        dtype="uint8",
        normalisation=Normalisation(mean=128, std=40),
    )


def trained(network):
    """With statistics that are not those of a new network."""
    torch.manual_seed(1)
    built = network.build({"affinities": 3}, plain=False)
    built.heads["affinities"].weight.data *= 5
    built.train()(3 * torch.randn(1, 1, *network.input_shape((2, 4, 4))) + 1)
    return built.eval()


def test_a_monai_network_predicts_the_same_in_every_tile(network):
    assert network.stride == (1, 2, 2)
    built = trained(network).double()
    whole = tuple(3 * s for s in network.stride)
    raw = torch.randn(1, 1, *network.input_shape(whole), dtype=torch.float64)
    with torch.no_grad():
        expected = built(raw)["affinities"]
        assert expected.shape == (1, 3, *whole)
        for index in [(0, 0, 0), (1, 2, 1), (2, 0, 2)]:
            begin = [i * s for i, s in zip(index, network.stride, strict=True)]
            tile = zip(begin, network.stride, network.context, strict=True)
            z, y, x = (slice(b, b + s + 2 * c) for b, s, c in tile)
            found = built(raw[:, :, z, y, x])["affinities"]
            z, y, x = (slice(b, b + s) for b, s in zip(begin, network.stride, strict=True))
            torch.testing.assert_close(found, expected[:, :, z, y, x], atol=1e-10, rtol=0)


def test_it_is_saved_and_loaded_with_each_weight_once(network, tmp_path):
    built = trained(network)
    weights = network.folded(built)
    assert not any("skip_layers" in name for name in weights)
    save_model(tmp_path / "model", description(network), weights)
    found, loaded = load_network(tmp_path / "model")
    assert found.network == network
    raw = torch.randn(1, 1, *network.input_shape((2, 4, 4)))
    with torch.no_grad():
        assert torch.equal(loaded(raw)["affinities"], built(raw)["affinities"])
        assert torch.equal(loaded.deep(raw)[0]["affinities"], built(raw)["affinities"])


def test_bfloat16_is_near_float32(network):
    shape = network.input_shape((4, 8, 8))
    raw = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = [
        Predictor(
            description(network),
            trained(network),
            "affinities",
            torch.device("cpu"),
            precision,
        )
        .submit(raw)()
        .astype(int)
        for precision in ("float32", "bfloat16")
    ]
    assert found[0].std() > 8
    assert np.abs(found[0] - found[1]).max() <= 8


def test_it_can_do_without_context_where_tiles_are_blended(network):
    uncropped = Predictor(
        description(network),
        trained(network),
        "affinities",
        torch.device("cpu"),
        "float32",
        cropped=False,
    )
    assert uncropped.needs.context == (0, 0, 0)
    assert uncropped.submit(np.zeros((2, 4, 6), np.uint8))().shape == (3, 2, 4, 6)


def test_its_memory_is_projected_from_above(network):
    built = network.build({"affinities": 3}, plain=True).eval()
    with torch.inference_mode(), Alive() as alive:
        built.features(torch.zeros(1, 1, *network.input_shape((4, 8, 8))))
    assert alive.peak <= network.activation_values((4, 8, 8)) <= 4 * alive.peak


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        (
            "DynUNet",
            {**DYNUNET, "norm_name": "instance"},
            ModelError,
            r"InstanceNorm3d .*norm_name",
        ),
        ("SegResNet", {}, ModelError, r"GroupNorm .*whole tile"),
        ("NoNet", {}, ConfigError, r"no network 'NoNet'; check its name"),
        ("DynUNet", {"depth": 3}, ConfigError, r"DynUNet is not built with .*depth"),
    ],
)
def test_networks_of_monai_that_do_not_fit_are_refused(network, name, arguments, error, message):
    with pytest.raises(error, match=message):
        MonaiNetwork(name=name, arguments=arguments, width=4).context  # noqa: B018

import pytest
import torch
from pydantic import ValidationError

from pipeline.errors import ModelError
from tasks.networks.architecture import Bottom, Level, UnetArchitecture
from tasks.networks.unet import Unet, folded

ISOTROPIC = UnetArchitecture(
    levels=[
        Level(channels=4, down=[(3, 3, 3)], up=[(3, 3, 3)], factor=(2, 2, 2)),
        Level(channels=6, down=[(3, 3, 3)], up=[(3, 3, 3), (3, 3, 3)], factor=(2, 2, 2)),
    ],
    bottom=Bottom(channels=8, kernels=[(3, 3, 3)]),
)
ANISOTROPIC = UnetArchitecture(
    levels=[
        Level(channels=4, down=[(1, 3, 3)], up=[(1, 3, 3), (3, 3, 3)], factor=(1, 2, 2)),
        Level(channels=6, down=[(3, 3, 3)], up=[(3, 3, 3)], factor=(1, 3, 3)),
    ],
    bottom=Bottom(channels=8, kernels=[(3, 5, 5)]),
)
BOTH = pytest.mark.parametrize("architecture", [ISOTROPIC, ANISOTROPIC], ids=["iso", "aniso"])


def network(architecture: UnetArchitecture, *, plain: bool = True) -> Unet:
    torch.manual_seed(3)
    return Unet(architecture, {"near": 3, "distances": 1}, plain=plain).eval()


@BOTH
@pytest.mark.parametrize("times", [(1, 1, 1), (2, 1, 3)])
def test_a_core_needs_exactly_its_input_shape(architecture, times):
    core = tuple(s * t for s, t in zip(architecture.stride, times, strict=True))
    shape = architecture.input_shape(core)
    with torch.inference_mode():
        outputs = network(architecture)(torch.zeros(1, 1, *shape))
    assert outputs["near"].shape == (1, 3, *core)
    assert outputs["distances"].shape == (1, 1, *core)


@BOTH
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_context_reaches_no_further_than_the_core_sees(architecture, axis, monkeypatch):
    # Average pooling lets a gradient through to every voxel, maximum pooling to one of them.
    monkeypatch.setattr(torch.nn.functional, "max_pool3d", torch.nn.functional.avg_pool3d)
    unet = network(architecture)
    for parameter in unet.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    shape = architecture.input_shape(architecture.stride)
    raw = torch.rand(1, 1, *shape, requires_grad=True)
    unet(raw)["near"].sum().backward()
    seen = (raw.grad[0, 0] != 0).moveaxis(axis, 0)
    assert seen[0].any()
    assert seen[-1].any()


@BOTH
def test_a_voxels_output_is_the_same_in_every_tile(architecture):
    unet = network(architecture)
    stride, context = architecture.stride, architecture.context
    whole = tuple(4 * s for s in stride)
    raw = torch.randn(1, 1, *architecture.input_shape(whole))
    with torch.inference_mode():
        expected = unet(raw)["near"]
        for index in [(0, 0, 0), (1, 2, 3), (3, 1, 0)]:
            begin = [i * s for i, s in zip(index, stride, strict=True)]
            z, y, x = (
                slice(b, b + s + 2 * c) for b, s, c in zip(begin, stride, context, strict=True)
            )
            tile = unet(raw[:, :, z, y, x])["near"]
            z, y, x = (slice(b, b + s) for b, s in zip(begin, stride, strict=True))
            torch.testing.assert_close(tile, expected[:, :, z, y, x], atol=1e-5, rtol=1e-5)


def test_folded_weights_compute_what_was_trained():
    trained = network(ISOTROPIC, plain=False)
    for parameter in trained.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    plain = network(ISOTROPIC)
    plain.load_state_dict(folded(trained))
    raw = torch.randn(1, 1, *ISOTROPIC.input_shape((4, 4, 4)))
    with torch.inference_mode():
        torch.testing.assert_close(plain(raw)["near"], trained(raw)["near"], atol=1e-4, rtol=1e-4)


def test_activations_keep_their_scale_through_the_network():
    unet = network(ISOTROPIC, plain=False)
    raw = torch.randn(1, 1, *ISOTROPIC.input_shape((16, 16, 16)))
    with torch.inference_mode():
        assert 0.2 < float(unet.features(raw).std()) < 5


def test_a_core_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(ModelError, match=r"\(6, 8, 8\) is not a multiple .* \(8, 8, 8\) would be"):
        ISOTROPIC.input_shape((6, 8, 8))


def test_even_kernels_are_refused():
    with pytest.raises(ValidationError, match=r"\(1, 2, 3\) is even on an axis"):
        UnetArchitecture(levels=ISOTROPIC.levels, bottom=Bottom(channels=4, kernels=[(1, 2, 3)]))

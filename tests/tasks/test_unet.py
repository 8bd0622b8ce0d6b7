import pytest
import torch
from alive import Alive
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
PLAIN = {"iso": ISOTROPIC, "aniso": ANISOTROPIC}
OPTIONS = [
    {},
    {"residual": True, "skips": "concat"},
    {"upsampling": "trilinear"},
    {"upsampling": "transposed"},
    {"padding": "same"},
    {"padding": "same", "upsampling": "trilinear", "residual": True},
    {"norm": "batch", "residual": True, "upsampling": "trilinear", "skips": "concat"},
]
ALL = pytest.mark.parametrize(
    "architecture",
    [net.model_copy(update=options) for net in PLAIN.values() for options in OPTIONS],
    ids=[
        "-".join([name, *(f"{key}={value}" for key, value in options.items())])
        for name in PLAIN
        for options in OPTIONS
    ],
)
BOTH = pytest.mark.parametrize("architecture", [ISOTROPIC, ANISOTROPIC], ids=["iso", "aniso"])


def network(architecture: UnetArchitecture, *, plain: bool = True) -> Unet:
    torch.manual_seed(3)
    return Unet(architecture, {"near": 3, "distances": 1}, plain=plain).eval()


@ALL
@pytest.mark.parametrize("times", [(1, 1, 1), (2, 1, 3)])
def test_a_core_needs_exactly_its_input_shape(architecture, times):
    core = tuple(s * t for s, t in zip(architecture.stride, times, strict=True))
    shape = architecture.input_shape(core)
    with torch.inference_mode():
        outputs = network(architecture)(torch.zeros(1, 1, *shape))
    assert outputs["near"].shape == (1, 3, *core)
    assert outputs["distances"].shape == (1, 1, *core)


@ALL
def test_a_core_depends_on_its_context_and_on_nothing_else(architecture, monkeypatch):
    # Average pooling lets a gradient through to every voxel, maximum pooling to one of them.
    monkeypatch.setattr(torch.nn.functional, "max_pool3d", torch.nn.functional.avg_pool3d)
    unet = network(architecture).double()
    for parameter in unet.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    shape = architecture.input_shape(architecture.stride)
    raw = torch.rand(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    unet(raw)["near"].sum().backward()
    radius = architecture.margins()[0].before
    for axis in range(3):
        seen = (raw.grad[0, 0] != 0).moveaxis(axis, 0)
        unread = architecture.context[axis] - radius[axis]
        assert not seen[:unread].any()
        assert seen[unread].any()
        assert seen[-1 - unread].any()
        assert unread < architecture.stride[axis]
        assert architecture.padding == "same" or unread == 0


@ALL
def test_a_voxels_output_is_the_same_in_every_tile(architecture):
    unet = network(architecture).double()
    stride, context = architecture.stride, architecture.context
    whole = tuple(4 * s for s in stride)
    raw = torch.randn(1, 1, *architecture.input_shape(whole), dtype=torch.float64)
    with torch.inference_mode():
        expected = unet(raw)["near"]
        assert expected.std() > 1e-3
        for index in [(0, 0, 0), (1, 2, 3), (3, 1, 0)]:
            begin = [i * s for i, s in zip(index, stride, strict=True)]
            z, y, x = (
                slice(b, b + s + 2 * c) for b, s, c in zip(begin, stride, context, strict=True)
            )
            tile = unet(raw[:, :, z, y, x])["near"]
            z, y, x = (slice(b, b + s) for b, s in zip(begin, stride, strict=True))
            # Trilinear weights are float32, and counted from the tile's first voxel.
            torch.testing.assert_close(tile, expected[:, :, z, y, x], atol=1e-6, rtol=1e-5)


def test_the_default_names_its_weights_as_trained_models_do():
    assert sorted(network(ISOTROPIC).state_dict()) == sorted(
        f"{layer}.{part}"
        for layer in [
            "sides.0.down.convs.0",
            "sides.0.reduce",
            "sides.0.up.convs.0",
            "sides.1.down.convs.0",
            "sides.1.reduce",
            "sides.1.up.convs.0",
            "sides.1.up.convs.1",
            "bottom.convs.0",
            "heads.near",
            "heads.distances",
        ]
        for part in ("weight", "bias")
    )


@ALL
def test_folded_weights_predict_what_was_trained(architecture):
    trained = network(architecture, plain=False)
    raw = torch.randn(2, 1, *architecture.input_shape(architecture.stride))
    for parameter in trained.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    trained.train()(raw)  # batch norm's statistics
    trained.double().eval()
    plain = network(architecture)
    plain.load_state_dict(folded(trained))
    plain.double()
    with torch.inference_mode():
        for name, expected in trained(raw.double()).items():
            # Folded weights are written as float32.
            torch.testing.assert_close(plain(raw.double())[name], expected, atol=1e-5, rtol=1e-4)


@ALL
def test_deeper_levels_say_something_of_the_same_core(architecture):
    n_levels = len(architecture.levels)
    unet = network(architecture.model_copy(update={"deep_heads": n_levels}), plain=False)
    core = tuple(2 * s for s in architecture.stride)
    raw = torch.randn(1, 1, *architecture.input_shape(core))
    with torch.no_grad():
        levels = unet.deep(raw)
        assert len(levels) == 1 + n_levels
        for logits in levels:
            assert logits["near"].shape == (1, 3, *core)
            assert logits["distances"].shape == (1, 1, *core)
        for name, value in unet(raw).items():
            torch.testing.assert_close(levels[0][name], value)
        # A voxel of the bottom is upsampled to one whole stride.
        stride = architecture.stride
        z, y, x = (slice(0, s) for s in stride)
        assert levels[-1]["distances"][0, 0, z, y, x].unique().numel() == 1
    assert not any(name.startswith("deeper") for name in folded(unet))


def test_checkpointing_changes_neither_logits_nor_gradients():
    found = []
    for checkpointing in (False, True):
        net = ISOTROPIC.model_copy(update={"checkpointing": checkpointing, "residual": True})
        unet = network(net, plain=False).train()
        torch.manual_seed(4)
        raw = torch.randn(1, 1, *net.input_shape((4, 4, 4)))
        loss = unet(raw)["near"].square().sum()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in unet.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(again, kept, atol=0, rtol=0)


@ALL
def test_memory_is_projected_from_above_and_not_by_far(architecture):
    core = tuple(4 * s for s in architecture.stride)
    unet = network(architecture)
    alive = Alive()
    with torch.inference_mode(), alive:
        raw = torch.zeros(1, 1, *architecture.input_shape(core))
        unet.features(raw)
    projected = architecture.activation_values(core)
    assert projected / 2.5 <= alive.peak <= projected


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


@pytest.mark.parametrize("norm", ["group", "instance", "layer"])
def test_norms_of_the_tile_are_refused_with_the_reason(norm):
    with pytest.raises(ValidationError, match=rf"'{norm}' is not offered.*whole tile.*use none"):
        UnetArchitecture(levels=ISOTROPIC.levels, bottom=ISOTROPIC.bottom, norm=norm)


def test_statistics_are_not_counted_twice():
    with pytest.raises(ValidationError, match=r"count its statistics twice; use norm: none"):
        UnetArchitecture(
            levels=ISOTROPIC.levels, bottom=ISOTROPIC.bottom, norm="batch", checkpointing=True
        )


def test_heads_below_the_bottom_are_refused():
    with pytest.raises(ValidationError, match=r"deep_heads: 3 is more than the 2 levels"):
        UnetArchitecture(levels=ISOTROPIC.levels, bottom=ISOTROPIC.bottom, deep_heads=3)

"""A configuration that is written from data is valid, and follows from their fingerprint."""

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from distributed.system import MEMORY_LIMIT

from pipeline.arrays import create_array, open_array
from pipeline.errors import ConfigError
from pipeline.geometry import Box
from tasks.train.command import train as command
from tasks.train.config import load
from tasks.train.fingerprint import take_fingerprint
from tasks.train.fitting import GIB, Machine, choose_crop, training_bytes
from tasks.train.init_from import write_training
from tasks.train.plan import choose_offsets

CPU, GPU = Machine(16 * GIB, gpu=False), Machine(24 * GIB, gpu=True)


def create(url, size):
    """A raw volume that says how large its voxels are."""
    shape = (24, 48, 48)
    create_array(url, shape=shape, dtype="uint8", block=shape, voxel_size=size, kind="image")


def write_cubes(folder, shape=(24, 48, 48), side_nm=160.0, size=(10.0, 10.0, 10.0), gap=False):
    """Objects that are cubes of `side_nm`, with or without a gap of a voxel between them."""
    index = [
        np.floor(np.arange(n) * s / side_nm).astype(int) for n, s in zip(shape, size, strict=True)
    ]
    z, y, x = np.meshgrid(*index, indexing="ij")
    labels = (1 + z * 10000 + y * 100 + x).astype(np.uint32)
    if gap:
        labels[:, index[1] != np.roll(index[1], 1)] = 0
        labels[:, :, index[2] != np.roll(index[2], 1)] = 0
    raw = np.random.default_rng(0).normal(120, 30, shape).clip(0, 255).astype(np.uint8)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "cubes.npz", raw=raw, labels=labels)
    return f"{folder}/cubes.npz:/raw", f"{folder}/cubes.npz:/labels"


@pytest.mark.parametrize(
    ("size", "flat", "serial"),
    [
        ((10, 10, 10), 0, False),
        ((16, 8, 8), 1, False),
        ((30, 8, 8), 1, True),
        ((40, 4, 4), 3, True),
        ((8, 8, 34), 2, True),
    ],
)
@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_networks_are_flat_until_voxels_are_isotropic(tmp_path, size, flat, serial, machine):
    pair = write_cubes(tmp_path, size=size)
    write_training([pair], str(tmp_path / "train.yaml"), voxel_size=size, machine=machine)
    config = load(str(tmp_path / "train.yaml"))
    levels = config.network.levels
    longest = size.index(max(size))
    assert [level.factor[longest] for level in levels] == [1] * flat + [2] * (len(levels) - flat)
    assert all(kernel[longest] == 1 for level in levels[:flat] for kernel in level.down + level.up)
    assert config.network.bottom.kernels[0] == (3, 3, 3)
    assert len(levels) >= 2
    kinds = {each.kind for each in config.augmentations}
    assert ("missing-section" in kinds) == serial
    assert {"flip", "transpose", "elastic"} <= kinds
    assert config.workers == (4 if machine.gpu else 0)


def test_offsets_are_chosen_in_nm():
    assert choose_offsets((10, 10, 10), (40, 120))[2:4] == [(0, 0, -4), (-12, 0, 0)]
    # Along sections 40 nm are one voxel, which is a nearest neighbour.
    assert choose_offsets((40, 4, 4), (40, 120)) == [
        (0, -10, 0),
        (0, 0, -10),
        (-3, 0, 0),
        (0, -30, 0),
        (0, 0, -30),
    ]


def test_a_crop_fits_volume_and_memory(tmp_path):
    pair = write_cubes(tmp_path, shape=(24, 200, 200))
    write_training([pair], str(tmp_path / "train.yaml"), voxel_size=(10, 10, 10), machine=CPU)
    config = load(str(tmp_path / "train.yaml"))
    # Of 24 slices 4 are held out; what is missing in depth is there in width.
    assert config.crop == (20, 72, 72)
    small, batch = choose_crop(
        config.network, (10, 10, 10), (400, 400, 400), Machine(GIB * 3, True)
    )
    large, larger = choose_crop(config.network, (10, 10, 10), (400, 400, 400), GPU)
    assert small < large
    assert batch <= larger
    assert training_bytes(config.network, small, batch) <= 1.5 * GIB


def test_a_container_may_use_less_than_its_machine_has(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Machine.here() == Machine(MEMORY_LIMIT, gpu=False)  # as workers of a run are planned


def test_labels_with_a_gap_are_told_from_those_without(tmp_path):
    for gap in (False, True):
        pair = write_cubes(tmp_path, gap=gap)
        write_training(
            [pair],
            str(tmp_path / "train.yaml"),
            voxel_size=(10, 10, 10),
            machine=CPU,
            force=True,
        )
        config = load(str(tmp_path / "train.yaml"))
        assert ("eroded_affinities" in config.heads) != gap
        # Were 0 unknown, no two objects would be seen to be apart.
        assert config.training[0].background == config.validation[0].background == [0] * gap


def test_what_nobody_annotated_is_unknown(tmp_path):
    raw, _ = write_cubes(tmp_path, shape=(24, 64, 64), gap=True)
    values = np.load(tmp_path / "cubes.npz")["labels"]
    values[:, 16:, 16:] = 0
    np.save(tmp_path / "few.npy", values)
    target = str(tmp_path / "train.yaml")
    write_training([(raw, f"{tmp_path}/few.npy")], target, voxel_size=(10, 10, 10), machine=CPU)
    assert load(target).training[0].background == []
    assert "annotate membranes, or set background: [0]" in (tmp_path / "train.yaml").read_text()


def test_the_fingerprint_measures_objects(tmp_path):
    found = take_fingerprint(*write_cubes(tmp_path, side_nm=160.0), voxel_size=(10, 10, 10))
    assert found.n_objects == 2 * 3 * 3
    assert found.calibre == pytest.approx(160, abs=30)
    assert found.labelled == 1
    assert found.touching == 1
    assert found.box == Box((0, 0, 0), (24, 48, 48))
    assert (found.mean, found.std) == pytest.approx((120, 30), abs=1)


def test_unlabelled_slices_are_left_out_and_some_are_held_out(tmp_path):
    raw, labels = write_cubes(tmp_path)
    values = np.load(tmp_path / "cubes.npz")["labels"]
    values[:6] = values[18:] = 0
    np.save(tmp_path / "some.npy", values)
    write_training(
        [(raw, str(tmp_path / "some.npy")), (raw, labels)],
        str(tmp_path / "train.yaml"),
        voxel_size=(10, 10, 10),
        machine=CPU,
    )
    config = load(str(tmp_path / "train.yaml"))
    assert [truth.slices for truth in config.training] == [(6, 16), (0, 20)]
    assert [truth.slices for truth in config.validation] == [(16, 18), (20, 24)]


def test_only_the_annotated_box_is_used(tmp_path):
    raw, _ = write_cubes(tmp_path)
    values = np.load(tmp_path / "cubes.npz")["labels"]
    values[:, :16] = values[:, :, 40:] = 0
    np.save(tmp_path / "part.npy", values)
    target = str(tmp_path / "train.yaml")
    write_training([(raw, f"{tmp_path}/part.npy")], target, voxel_size=(10, 10, 10), machine=CPU)
    learnt, scored = load(target).training[0].box, load(target).validation[0].box
    assert (learnt.offset, learnt.shape) == ((0, 16, 0), (20, 32, 40))
    assert (scored.offset, scored.shape) == ((20, 16, 0), (4, 32, 40))


def test_the_voxel_size_may_come_from_the_volume(tmp_path):
    _, labels = write_cubes(tmp_path)
    url = str(tmp_path / "raw.zarr/s0")
    create(url, (20, 8, 8))
    values = np.load(tmp_path / "cubes.npz")["raw"]
    open_array(url).write(Box((0, 0, 0), values.shape), values)
    write_training([(url, labels)], str(tmp_path / "train.yaml"), machine=CPU)
    assert load(str(tmp_path / "train.yaml")).voxel_size == (20, 8, 8)


def test_every_choice_says_why(tmp_path):
    write_training(
        [write_cubes(tmp_path)], str(tmp_path / "t.yaml"), voxel_size=(40, 4, 4), machine=CPU
    )
    text = (tmp_path / "t.yaml").read_text()
    assert "# voxels are 10 times longer on one axis: 3 levels leave it out" in text
    assert "# anisotropy 10: serial sections, with their defects" in text
    assert "labels leave no gap" in text
    assert "GiB" in text
    assert yaml.safe_load(text)["output"] == "trained/t"


def test_what_cannot_be_learnt_from_is_refused_with_the_remedy(tmp_path):
    raw, labels = write_cubes(tmp_path)
    target, size = str(tmp_path / "train.yaml"), (10, 10, 10)
    np.save(tmp_path / "float.npy", np.zeros((24, 48, 48), np.float32))
    np.save(tmp_path / "small.npy", np.ones((4, 4, 4), np.uint8))
    one = np.zeros((24, 48, 48), np.uint8)
    one[3] = 1
    np.save(tmp_path / "one.npy", one)
    np.save(tmp_path / "none.npy", 0 * one)
    for pair, message in (
        ((raw, f"{tmp_path}/small.npy"), r"\(4, 4, 4\); they must be the same voxels"),
        ((f"{tmp_path}/float.npy", labels), r"float32, and networks take uint8 or uint16; conv"),
        ((raw, f"{tmp_path}/float.npy"), r"float32, and labels are integers; convert it"),
        ((raw, f"{tmp_path}/one.npy"), r"labels in 1 slices along z, and at least 2 are"),
        ((raw, f"{tmp_path}/none.npy"), r"labels in 0 slices along z, and at least 2 are"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_training([pair], target, voxel_size=size)
    with pytest.raises(ConfigError, match=r"carries a voxel size; give it: --voxel-size"):
        write_training([(raw, labels)], target)


def test_cubes_of_different_voxels_are_refused(tmp_path):
    pairs = []
    for name, size in (("a", (10, 10, 10)), ("b", (10, 10, 20))):
        _, labels = write_cubes(tmp_path / name)
        url = str(tmp_path / name / "raw.zarr/s0")
        create(url, size)
        pairs.append((url, labels))
    with pytest.raises(ConfigError, match=r"voxels of \[10.0, 10.0, 20.0\] nm and .*resample one"):
        write_training(pairs, str(tmp_path / "train.yaml"))


def test_the_command_writes_and_does_not_replace(tmp_path):
    raw, labels = write_cubes(tmp_path)
    arguments = ["--init-from", raw, labels, "--init-from", raw, labels]
    arguments += ["--voxel-size", "10", "10", "10", "--output", str(tmp_path / "mine.yaml")]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert f"then: raphe train {tmp_path}/mine.yaml" in result.output
    assert len(load(str(tmp_path / "mine.yaml")).training) == 2
    with pytest.raises(ConfigError, match=r"exists; give another name with --output, or --force"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    CliRunner().invoke(command, [*arguments, "--force"], catch_exceptions=False)

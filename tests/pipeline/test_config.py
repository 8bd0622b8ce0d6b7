import pytest

from pipeline.config import SCALE, Config, level, load, parse
from pipeline.errors import ConfigError

LEAST = "{raw: a, model: m, output: o}"


def test_the_least_configuration_has_the_documented_defaults():
    config = parse(LEAST, "c")
    assert config.block == (256, 256, 256)
    assert (config.decoder, config.relabel, config.retries) == ("exact", "packed", 2)
    assert config.segment.supervoxel is not None
    assert (config.segment.threshold, config.segment.absorb_size) == (0.55, 600)
    assert (config.cluster.kind, config.cluster.workers) == ("local", 2)


def test_it_survives_being_written_and_read():
    config = parse(LEAST, "c")
    assert Config.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{raw: a, model: m}", r"output: Field required"),
        ("{raw: a, model: m, output: ''}", "output: .*at least 1 character"),
        ("{raw: a, model: m, output: o, blok: 3}", r"blok: Extra inputs .* \(given: 3\)"),
        ("{raw: a, model: m, output: o, block: [1, 2]}", r"block.*"),
        ("{raw: a, model: m, output: o, block: [0, 2, 2]}", r"block.0: .*greater than 0"),
        ("{raw: a, affinities: b, model: m, output: o}", "either raw .* or affinities, not both"),
        ("{output: o}", "either raw .* or affinities, not both or neither"),
        ("{raw: a, output: o}", "raw needs a model"),
        ("{raw: a, model: m, output: o, segment: {low: 2}}", "segment.low: .* less than or equal"),
        ("{raw: a, model: m, output: o, segment: {low: 0.000001}}", "less than the smallest level"),
        ("{raw: a, model: m, output: o, segment: {linkage: median}}", "segment.linkage"),
        ("{raw: a, model: m, output: o, cluster: {kind: moon}}", "cluster.kind"),
        ("[1, 2]", " holds no configuration"),
        ("{", " is not YAML"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ConfigError, match=f"(?s)^c.*{message}"):
        parse(text, "c")


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(ConfigError, match=r"(?s)retries.*cluster\.workers"):
        parse("{raw: a, model: m, output: o, retries: -1, cluster: {workers: 0}}", "c")


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration at '.*none.yaml'; `raphe init RAW`"):
        load(str(tmp_path / "none.yaml"))
    (tmp_path / "c.yaml").write_text(LEAST)
    assert load(str(tmp_path / "c.yaml")) == parse(LEAST, "c")


def test_every_uint8_affinity_is_hit_exactly():
    assert [level(v / 255) for v in range(256)] == [v * SCALE for v in range(256)]

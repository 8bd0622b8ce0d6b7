"""What the documentation shows is what Raphe takes."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional

from pipeline.config import Config
from tasks.networks.model import find_model, load_network
from tasks.parts import Lesson
from tasks.targets.affinities import NEAREST, Affinities
from tasks.train.config import Training
from tasks.train.finetune import freeze

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "training.md"


def blocks(page, language):
    """The code blocks of a page in a language."""
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    assert found
    return found


def test_the_configuration_in_the_readme_is_one():
    (text,) = blocks(README, "yaml")
    assert Config.model_validate(yaml.safe_load(text)).model == "fib25-affinities"


def test_the_training_in_the_guide_is_one():
    text = next(text for text in blocks(GUIDE, "yaml") if "training:" in text)
    training = Training.model_validate(yaml.safe_load(text))
    assert training.network.stride == (1, 4, 4)
    assert all(truth.weight for truth in training.training)  # or none
    assert training.network.deep_heads + 1 == len(training.deep_supervision)


def test_the_regime_in_the_guide_is_one():
    text = next(text for text in blocks(GUIDE, "yaml") if "predict:" in text)
    config = Config.model_validate(yaml.safe_load(text) | {"raw": "r.zarr", "output": "o.zarr"})
    assert (config.predict.tta, config.predict.ensemble) == ("flips", "median")


def test_the_fine_tuning_in_the_guide_freezes_what_it_says():
    text = next(text for text in blocks(GUIDE, "yaml") if "freeze:" in text)
    fields = yaml.safe_load(text)
    description, _ = load_network(find_model(fields["init"]))
    network = description.network.build(description.channels(), plain=False)
    freeze(network, fields["freeze"])
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen
    assert frozen == {n for n, _ in network.named_parameters() if n.startswith("sides.0.")}


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_loss_in_the_guide_does_what_it_says(tmp_path, gamma):
    (source,) = blocks(GUIDE, "python")
    path = tmp_path / "my_parts.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("my_parts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    logits = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    target, known = logits > 0.3, logits < 1
    lesson = Lesson(target, known, torch.ones(2, 4, 5, 6).int(), Affinities(offsets=NEAREST))
    found = module.Focal(gamma=gamma)(logits, lesson)
    p = torch.sigmoid(logits)[known]
    likely = p.where(target[known], 1 - p)
    expected = -((1 - likely) ** gamma * likely.log()).mean()
    torch.testing.assert_close(found, expected)
    plain = functional.binary_cross_entropy_with_logits(logits[known], target[known].float())
    assert found <= plain + 1e-6


@pytest.mark.parametrize(
    "page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

"""The published form of discriminator guidance, on digits."""

import pytest

import models
from configs import cifar10, digits, digits_guidance
from experiments.build import frozen, restored, tasks
from experiments.build.components import diffusion, optimization, specs
from experiments.build.fields import configs


def test_the_discriminator_is_trained_as_the_published_one():
    ours = digits_guidance.get_config()
    theirs = cifar10.get_config("edm_discriminator_published")
    for section in ("optim", "noise_density"):
        assert ours[section] == theirs[section]
    assert optimization.training(ours).average == optimization.training(theirs).average
    assert ours.data.generated_test_fraction == 0
    assert diffusion.sde(ours) == diffusion.sde(theirs)
    for config in (ours, theirs):
        network = models.create(config)
        assert type(network.reader).__name__ == "ADMHead"
        assert type(network.encoder).__name__ == "ADMClassifier"
        restored.skeleton(config)


@pytest.mark.thorough
def test_it_reads_the_features_of_its_classifier_and_guides_edm(tmp_path):
    classifier = digits_guidance.get_config("classifier")
    assert type(tasks.task(classifier)).__name__ == "Classifier"
    configs.save(classifier, tmp_path)
    ours, guided = digits_guidance.get_config(), digits.get_config("edm")
    ours.model.pretrained = str(tmp_path)
    assert frozen.encoder_config(ours).model.name == "adm_classifier"
    assert ours.data.generated == "runs/digits-edm/generated.npz"
    scalings = [specs.scaling(config) for config in (ours, guided)]
    assert scalings[0] == scalings[1]
    assert models.preconditioning(ours, diffusion.sde(ours)).any_sde

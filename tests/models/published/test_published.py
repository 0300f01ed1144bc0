import numpy as np
import pytest

from models import published


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sigma", "statistics of images for FID, which config.eval.statistics takes"),
        ("Mixed_5b.branch1x1.conv.weight", "weights of Inception, which config.eval.features"),
        ("model.diffusion_model.out.2.bias", "a U-Net of latent diffusion"),
        ("unet.down_blocks.0.lora_A.weight", "LoRA's changes of a network's weights"),
        ("G_ema.mapping.fc0.weight", "a generator of a GAN"),
        ("text_model.final_layer_norm.bias", "an encoder of CLIP"),
        ("layer1.0.conv1.weight", "a ResNet"),
    ],
)
def test_files_of_other_families_are_told_what_they_look_like(tmp_path, name, text):
    np.savez(tmp_path / "file.npz", **{name: np.ones(2)})
    with pytest.raises(ValueError, match=rf"known here \(it looks like {text}.*known are a model"):
        published.identify(published.read(tmp_path / "file.npz"))


def test_long_lists_of_names_are_cut(tmp_path):
    arrays = {f"all_modules.{i}.weight": np.ones(2) for i in range(30)}
    with pytest.raises(ValueError, match=r"unexpected \[.*\] and 10 more; of another shape none"):
        published.base.convert(arrays, {}, published.base.Skeleton(None, (), (), {}))


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nosuch.pt: give"):
        published.read(tmp_path / "nosuch.pt")

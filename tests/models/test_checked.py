import dataclasses
import math

import pytest

import models
from models.adm import ADM
from models.autoencoder import Autoencoder
from models.checked import check_attention
from models.registry import MODELS

BAD = {
    "dropout": (1.0, 1.5, -0.1, math.nan, "0.1", None),
    "init_scale": (-1.0, math.inf),
    "fourier_scale": (0.0, math.nan),
    "mlp_ratio": (0.0, "4"),
    "sigma_min": (0.0, math.inf),
    "nf": (0, -1, 8.0, True, "8"),
    "num_res_blocks": (-1, 1.5),
    "ch_mult": ((), (0,), (1, 1.5), (1, "2"), 2),
    "attn_resolutions": ((0,), (4.5,), 4),
    "fir_kernel": ((), (math.nan,)),
    "fourier_features": ((-1,), (99,)),
    "num_head_channels": (0,),
    "hidden_size": (0,),
    "text_length": (0,),
    "text_depth": (0,),
    "num_scales": (0, 1.5),
    "conditional": (1, "False"),
    "codebook_size": (0,),
    "remat": ("yes",),
}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "discriminator"])
def test_every_network_refuses_impossible_fields_when_it_is_made(name):
    tried = 0
    for field in BAD.keys() & {field.name for field in dataclasses.fields(MODELS[name])}:
        for value in BAD[field]:
            tried += 1
            with pytest.raises(ValueError, match=rf"config\.model\.{field}"):
                MODELS[name](**{field: value})
    assert tried


def test_attention_is_at_the_resolution_of_a_level():
    network = Autoencoder(ch_mult=(1, 2), attn_resolutions=(4,))
    check_attention(network, 8)
    check_attention(models.MODELS["mlp"](), 2)
    with pytest.raises(ValueError, match=r"attn_resolutions has 4, .* levels are 32, 16 pixels"):
        check_attention(network, 32)
    with pytest.raises(ValueError, match=r"attn_factors has 4, .* levels are 1, 2 times smaller"):
        check_attention(ADM(ch_mult=(1, 2), attn_resolutions=(), attn_factors=(2, 4)), 32)

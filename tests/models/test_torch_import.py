import golden
import jax.numpy as jnp
import numpy as np
import pytest

import models

NAMES = (
    "ncsnpp_ve_continuous",
    "ncsnpp_highres_skip",
    "ncsnpp_residual_cat",
    "ddpmpp_vp_continuous",
)


@pytest.mark.parametrize("name", NAMES)
def test_imported_networks_agree_with_the_published_code(name):
    arrays = golden.load(name)
    config = golden.config(arrays)
    params = models.torch_import.score_sde(golden.state_dict(arrays), config)
    x = golden.channels_last(arrays["x"])
    output = models.create(config).apply({"params": params}, x, jnp.asarray(arrays["labels"]))
    golden.assert_close(output, golden.channels_last(arrays["output"]), 1e-5)


def test_names_of_a_wrapped_module_and_buffers_are_understood():
    arrays = golden.load(NAMES[0])
    config, state = golden.config(arrays), golden.state_dict(arrays)
    wrapped = {f"module.{name}": value for name, value in state.items()}
    wrapped["module.sigmas"] = np.ones(1000)
    params = models.torch_import.score_sde(wrapped, config)
    np.testing.assert_array_equal(params["FourierEmbedding_0"]["W"], state["all_modules.0.W"])


def test_a_state_dict_of_another_network_is_refused_as_a_whole():
    arrays = golden.load(NAMES[0])
    config, state = golden.config(arrays), golden.state_dict(arrays)
    del state["all_modules.1.bias"]
    state["all_modules.99.weight"] = np.ones(3)
    state["all_modules.2.bias"] = np.ones(7)
    with pytest.raises(ValueError, match="does not fit") as error:
        models.torch_import.score_sde(state, config)
    for name in ("all_modules.1.bias", "all_modules.99.weight", "all_modules.2.bias: (7,)"):
        assert name in str(error.value)

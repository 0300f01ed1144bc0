"""Densities of vectors by classical estimates, which a model's log-likelihood is compared with."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

N_COMPONENTS = 10
BANDWIDTHS = np.geomspace(0.05, 2.0, 20)  # in standard deviations
FOLDS = 5


def log_likelihoods(
    train: Float[np.ndarray, "n columns"],
    test: Float[np.ndarray, "m columns"],
    std: Sequence[float] | Float[np.ndarray, " columns"],
) -> dict[str, str]:
    """Mean log densities of test data by a Gaussian mixture and a kernel estimate, as texts.

    The mixture has N_COMPONENTS components of full covariance (fewer for few samples). The kernels
    are Gaussian, with the bandwidth that is best in cross-validation of the training data.

    Args:
        train: standardised training data.
        test: test data, on the same scale.
        std: of the columns in the data's own units, to which the densities belong.
    """
    from sklearn.mixture import GaussianMixture  # takes 0.9 s, so only this report imports it
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity

    n = min(N_COMPONENTS, len(train))
    mixture = GaussianMixture(n, random_state=0).fit(train)
    folds = min(FOLDS, len(train))
    search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=folds).fit(train)
    kernels, log_volume = search.best_estimator_, float(np.log(std).sum())
    return {
        f"test log-likelihood of a {n}-component Gaussian mixture": _figure(
            mixture.score_samples(test) - log_volume
        ),
        "test log-likelihood of a kernel density estimate": _figure(
            kernels.score_samples(test) - log_volume, f" (bandwidth {kernels.bandwidth:.2g})"
        ),
    }


def _figure(nats: Float[np.ndarray, " m"], about: str = "") -> str:
    return f"{nats.mean():.3f} +- {nats.std(ddof=1) / np.sqrt(len(nats)):.3f} nats{about}"

"""Every SDE, with alpha and sigma by definition, in float64, and their rates."""

import numpy as np

import sde_lib


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _integral(t):
    return t * (0.1 + t * 19.9 / 2)


def _cos(t):
    return np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)


def _gamma(t, start=-3.0, end=3.0, tau=1.0):
    first, last = _sigmoid(start / tau), _sigmoid(end / tau)
    return (last - _sigmoid((start + t * (end - start)) / tau)) / (last - first)


def _preserving(alpha2):
    """alpha and sigma of t in extended precision: 1 - alpha2 cancels near t = 0."""
    return (
        lambda t: np.sqrt(alpha2(np.asarray(t, _WIDE[np.iscomplexobj(t)]))),
        lambda t: np.sqrt(1 - alpha2(np.asarray(t, _WIDE[np.iscomplexobj(t)]))),
    )


_WIDE = {False: np.longdouble, True: np.clongdouble}
EXACT = {
    "ve": (lambda t: 1 + 0 * t, lambda t: 0.01 * 5000**t),
    "vp": _preserving(lambda t: np.exp(-_integral(t))),
    "subvp": (lambda t: np.exp(-_integral(t) / 2), lambda t: 1 - np.exp(-_integral(t))),
    "edm": (lambda t: 1 + 0 * t, lambda t: t),
    "cosine": _preserving(lambda t: _cos(t) ** 2),
    "sigmoid": _preserving(_gamma),
    "sigmoid_steep": _preserving(lambda t: _gamma(t, 0.0, 3.0, 0.3)),
    "linear": _preserving(lambda t: 1 - t),
    "log_linear": _preserving(lambda t: _sigmoid(13.3 - 18.3 * t)),
    "geometric_vp": _preserving(lambda t: 1 - 3e-5 * (0.999 / 3e-5) ** t),
    "flow": (lambda t: 1 - t, lambda t: t),
}
SDES = {
    "ve": sde_lib.VE(),
    "vp": sde_lib.VP(),
    "subvp": sde_lib.SubVP(),
    "edm": sde_lib.EDM(),
    "cosine": sde_lib.Cosine(),
    "sigmoid": sde_lib.Sigmoid(),
    "sigmoid_steep": sde_lib.Sigmoid(0.0, 3.0, 0.3),
    "linear": sde_lib.Linear(),
    "log_linear": sde_lib.LogLinear(),
    "geometric_vp": sde_lib.GeometricVP(),
    "flow": sde_lib.LinearFlow(),
}


def kernel(name, t):
    """alpha and sigma of SDES[name] at t, and their derivatives (by a complex step)."""
    t = np.asarray(t, np.float64)
    values = [fn(t + 1e-200j) for fn in EXACT[name]]
    rates = [np.asarray(value.imag / 1e-200, np.float64) for value in values]
    return *(np.asarray(fn(t), np.float64) for fn in EXACT[name]), *rates

"""Charts by matplotlib: losses, densities, errors of samplers, and the figures of the studies.

Their metadata are those of pictures.py: a model made what they show.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.runs import files, hosts

PAIRED = 5  # columns whose pairs are shown
CHANNELS = 3  # of series that are shown
FEW = 40  # points of a curve, fewer than which have marks
WORST = 4.0  # error of samples that still resemble data
TICKS = (5, 10, 20, 50, 100, 200)  # network evaluations, of samplers alone
EVALUATIONS = "network evaluations"


def save_loss_curve(path: Path, metrics: list[dict], about: dict[str, str]) -> Path:
    """Saves loss and gradient norm over the steps; `metrics` are the lines of metrics.jsonl."""
    figure, left = _subplots(figsize=(6, 3.5))
    steps = [line["step"] for line in metrics if "loss" in line]
    right = left.twinx()
    for axes, name, colour in ((left, "loss", "tab:blue"), (right, "grad_norm", "tab:orange")):
        axes.plot(steps, [line[name] for line in metrics if name in line], color=colour)
        axes.set_ylabel(name, color=colour)
        axes.set_yscale("log")
    left.set_xlabel("step")
    return _save(figure, path, about)


class Curves(NamedTuple):
    """A panel of samplers by name.

    Attributes:
        title: of the panel.
        curves: (cost, error or other figure) by name.
        floor: the error of exact samples; None for other figures.
        cost: its name.
        log: the figure's axis is logarithmic.
    """

    title: str
    curves: dict[str, list[tuple[float, float]]]
    floor: float | None = None
    cost: str = EVALUATIONS
    log: bool = True


def save_work_precision(path: Path, panels: Sequence[Curves], about: dict[str, str]) -> Path:
    """Saves the samplers' figures over their cost, the one with the greatest last figure first."""
    size = 6.5 * len(panels), 4.5
    figure, all_axes = _subplots(1, len(panels), figsize=size, squeeze=False)
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    for axes, (title, curves, floor, cost, log) in zip(all_axes[0], panels, strict=True):
        for name, points in sorted(curves.items(), key=lambda curve: -curve[1][-1][1]):
            k = names.index(name)
            style = {"color": f"C{k % 10}", "marker": "os^Dv*X"[k % 7], "markersize": 4}
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1, **style)
        axes.set(xscale="log", yscale="log" if log else "linear", title=title, xlabel=cost)
        if floor is not None:
            axes.set_ylim(top=min(axes.get_ylim()[1], WORST))
            axes.axhline(floor, color="0.5", linewidth=1, linestyle=":", label="exact")
        if cost == EVALUATIONS and all(
            nfe <= 2 * TICKS[-1] for points in curves.values() for nfe, _ in points
        ):
            axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.tick_params(axis="x", which="minor", labelsize=6)
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    return _save(figure, path, about)


def save_distances(
    path: Path, names: Sequence[str], matrix: Float[np.ndarray, "n n"], about: dict[str, str]
) -> Path:
    """Saves distances between all pairs of `names`, in colours and numbers."""
    side = 1.6 + 0.6 * len(names)
    figure, axes = _subplots(figsize=(side, side))
    image = axes.imshow(matrix, cmap="Blues")
    for row, column in np.ndindex(*matrix.shape):
        value = float(matrix[row, column])
        colour = "white" if image.norm(value) > 0.5 else "black"
        text = f"{value:.2g}" if row != column else ""
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    return _save(figure, path, about)


class Ratios(NamedTuple):
    """A panel of ratios: (noise level, ratio, half width of its band) by (name, number)."""

    title: str
    curves: dict[tuple[str, int], list[tuple[float, float, float]]]


def save_ratios(path: Path, panels: Sequence[Ratios], columns: int, about: dict[str, str]) -> Path:
    """Saves ratios over noise levels, from high to low, in rows of `columns` panels.

    Each name has a colour and a marker. Curves with another number than 1 are dotted, with open
    markers.
    """
    label = "predicted noise / training's, 95%"
    figure, axes = _panels(len(panels), columns, label, sharex=True)
    shown = {}
    names = list(dict.fromkeys(name for panel in panels for name, _ in panel.curves))
    for panel, (title, curves) in zip(axes, panels, strict=True):
        for (name, number), points in curves.items():
            level, ratio, width = np.transpose(points)
            colour, marker = f"C{names.index(name)}", "os^D"[names.index(name) % 4]
            style = {"color": colour, "marker": marker, "markersize": 7 - 1.5 * names.index(name)}
            style |= {"fillstyle": "full" if number == 1 else "none", "linewidth": 1}
            panel.fill_between(level, ratio - width, ratio + width, color=colour, alpha=0.15, lw=0)
            line = "-" if number == 1 else ":"
            label = name if number == 1 else f"{name}, evaluation {number}"
            (shown[label],) = panel.plot(level, ratio, line, **style)
        panel.axhline(1, color="0.5", linewidth=1, zorder=0)
        panel.set(title=title, xscale="log", xlabel="noise level")
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", frameon=False)
    axes[0].invert_xaxis()
    return _save(figure, path, about)


def save_arms(
    path: Path, panels: dict[str, dict[str, list[float]]], columns: int, about: dict[str, str]
) -> Path:
    """Saves distances by the arms of a study, in rows of `columns` panels.

    Each grey line is a seed; the mean over the seeds has bars of one standard error.

    Args:
        path: of the picture.
        panels: by their titles, the distances of all seeds by arm.
        columns: panels in a row.
        about: from pictures.provenance.
    """
    figure, all_axes = _panels(len(panels), columns, "Fréchet distance, reported sets")
    for axes, (title, arms) in zip(all_axes, panels.items(), strict=True):
        values, places = np.array(list(arms.values())), range(len(arms))
        axes.plot(places, values, "o-", color="0.7", linewidth=0.8, markersize=4)
        errors = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        style = {"fmt": "_", "color": "black", "markersize": 16, "capsize": 3}
        axes.errorbar(places, values.mean(axis=1), errors, **style)
        axes.set_xticks(places, list(arms))
        axes.set_xlim(-0.5, len(arms) - 0.5)
        axes.set_title(title)
    return _save(figure, path, about)


class Grid(NamedTuple):
    """A panel of distances: (b, distance) by the name of w, and the point that each arm chose."""

    curves: dict[str, list[tuple[float, float]]]
    chosen: dict[str, tuple[float, float]]


def save_grids(path: Path, panels: dict[str, Grid], columns: int, about: dict[str, str]) -> Path:
    """Saves distances over b, the scale of the predicted noise, in rows of `columns` panels."""
    figure, all_axes = _panels(len(panels), columns, "Fréchet distance, choosing set")
    for axes, (title, (curves, chosen)) in zip(all_axes, panels.items(), strict=True):
        for name, points in curves.items():
            axes.plot(*zip(*sorted(points), strict=True), ".-", linewidth=1, label=name)
        for marker, (arm, point) in zip("os^Dv", chosen.items(), strict=False):
            style = {"fillstyle": "none", "color": "black", "linestyle": "none"}
            axes.plot(*point, marker, markersize=9, label=arm, **style)
        axes.set(title=title, xlabel="b")
        axes.ticklabel_format(useOffset=False)
    all_axes[columns - 1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return _save(figure, path, about)


def save_rocs(
    path: Path, panels: dict[str, dict[str, Float[np.ndarray, "points 2"]]], about: dict[str, str]
) -> Path:
    """Saves ROC curves by statistic and name, a panel for each statistic above its legend."""
    size = 4 * len(panels), 5.2
    figure, all_axes = _subplots(1, len(panels), figsize=size, squeeze=False)
    for axes, (title, curves) in zip(all_axes[0], panels.items(), strict=True):
        for name, curve in curves.items():
            axes.plot(*curve.T, linewidth=1, label=name)
        axes.plot((0, 1), (0, 1), ":", color="0.5")
        labels = {"xlabel": "real images taken for samples", "ylabel": "samples recognised"}
        axes.set(title=title, aspect="equal", **labels)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8, frameon=False)
    return _save(figure, path, about)


def save_points(
    path: Path,
    data: Float[np.ndarray, "n 2"],
    samples: Float[np.ndarray, "m 2"],
    density: Float[np.ndarray, "side side"] | None,
    half_width: float,
    about: dict[str, str],
) -> Path:
    """Saves data, samples and learned density, if any, beside each other: |x|, |y| < half_width."""
    titles = ("data", "samples", *(("learned density",) if density is not None else ()))
    figure, panels = _subplots(1, len(titles), figsize=(4 * len(titles), 4.2))
    for axes, title in zip(panels, titles, strict=True):
        axes.set(title=title, xlim=(-half_width, half_width), ylim=(-half_width, half_width))
        axes.set_aspect("equal")
    panels[0].scatter(*data.T, s=1, alpha=0.5)
    panels[1].scatter(*samples.T, s=1, alpha=0.5)
    if density is None:
        return _save(figure, path, about)
    extent = (-half_width, half_width, -half_width, half_width)
    brightest = np.percentile(density, 99.9)  # a few wild points would hide the rest
    drawn = panels[2].imshow(density, origin="lower", extent=extent, vmax=brightest)
    figure.colorbar(drawn, ax=panels[2], shrink=0.8)
    return _save(figure, path, about)


def save_pairs(
    path: Path,
    sets: dict[str, Float[np.ndarray, "_ columns"]],
    names: Sequence[str],
    about: dict[str, str],
) -> Path:
    """Saves histograms of the first columns, and all pairs of these, of several sets of vectors.

    Args:
        path: of the picture.
        sets: vectors by their title; those with NaN are left out of the panels of their columns.
        names: of the columns; () for numbers.
        about: from pictures.provenance.
    """
    least = min(map(len, sets.values()))  # as many of each, or one would hide the others
    sets = {name: values[:least] for name, values in sets.items()}
    n = min(PAIRED, next(iter(sets.values())).shape[1])
    figure, axes = _subplots(n, n, figsize=(2.2 * n + 1, 2.2 * n), squeeze=False)
    for row, column in np.ndindex(n, n):
        panel, first = axes[row, column], next(iter(sets.values()))
        edges = np.histogram_bin_edges(_observed(first[:, column]), 30)
        for name, values in sets.items():
            seen = _observed(values[:, row])
            if row == column and len(seen):
                panel.hist(seen, edges, density=True, alpha=0.5, label=name)
            elif row == column:
                panel.plot([], label=name)
            else:
                panel.scatter(values[:, column], values[:, row], s=5, alpha=0.5, linewidths=0)
        panel.tick_params(labelsize=6)
        if row == n - 1:
            panel.set_xlabel(names[column] if names else f"column {column}", fontsize=7)
        if column == 0:
            panel.set_ylabel(names[row] if names else f"column {row}", fontsize=7)
    axes[0, 0].legend(fontsize=7, frameon=False)
    return _save(figure, path, about)


def _observed(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def save_series(
    path: Path,
    sets: dict[str, Float[np.ndarray, "_ length channels"]],
    about: dict[str, str],
    own_scales: bool = False,
) -> Path:
    """Saves the series of several sets under each other, a column for each set.

    The first channels of a series are lines of one panel.

    Args:
        path: of the picture.
        sets: series by their title.
        about: from pictures.provenance.
        own_scales: each set has a scale of its own, as noise and data need.
    """
    n, length = min(map(len, sets.values())), next(iter(sets.values())).shape[1]
    size = max(12.0, 1.6 * len(sets)), 1.1 * n
    options: Any = {"sharex": True, "sharey": "col" if own_scales else "all", "squeeze": False}
    figure, axes = _subplots(n, len(sets), figsize=size, **options)
    for column, (name, series) in enumerate(sets.items()):
        axes[0, column].set_title(name, fontsize=9)
        for row in range(n):
            axes[row, column].plot(series[row, :, :CHANNELS], linewidth=0.9)
            axes[row, column].tick_params(labelsize=6)
    axes[0, 0].set_xlim(0, length - 1)
    return _save(figure, path, about)


def save_point_path(
    path: Path,
    frames: Float[np.ndarray, "frames n 2"],
    about: dict[str, str],
    titles: Sequence[str] = (),
) -> Path:
    """Saves sets of points side by side, such as samples on their way from noise to data."""
    size = 2 * len(frames), 2.2
    figure, panels = _subplots(1, len(frames), figsize=size, squeeze=False)
    for axes, points, title in zip(panels[0], frames, titles or [""] * len(frames), strict=True):
        axes.set_title(title, fontsize=9)
        axes.scatter(*points.T, s=1, alpha=0.5)
        axes.set_aspect("equal")
        axes.tick_params(labelsize=6)
    return _save(figure, path, about)


def save_point_paths(
    path: Path,
    panels: dict[str, Float[np.ndarray, "frames n 2"]],
    n_paths: int,
    mesh: Float[np.ndarray, "m 2"],
    field: Float[np.ndarray, "*panels m 2"],
    half_width: float,
    about: dict[str, str],
) -> Path:
    """Saves panels by title: a field's arrows, all last points, and n_paths samples' paths.

    There is one field for all panels, or one for each.
    """
    figure, axes = _subplots(1, len(panels), figsize=(6 * len(panels), 6.3), squeeze=False)
    fields = np.broadcast_to(field, (len(panels), *mesh.shape))
    for panel, (title, frames), own in zip(axes[0], panels.items(), fields, strict=True):
        panel.quiver(*mesh.T, *own.T, color="0.7", width=0.002)
        panel.scatter(*frames[-1].T, s=6, color="black", alpha=0.35, linewidths=0)
        for k in range(n_paths):
            (line,) = panel.plot(*frames[:, k].T, linewidth=0.9, alpha=0.8)
            panel.plot(*frames[0, k], "o", markersize=4, color=line.get_color(), fillstyle="none")
            panel.plot(*frames[-1, k], "o", markersize=5, color=line.get_color())
        panel.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width))
        panel.set_title(title, fontsize=10)
        panel.set_aspect("equal")
    return _save(figure, path, about)


class Errors(NamedTuple):
    """A panel of a statistic: (x, value, standard error) by the name of a curve."""

    title: str
    curves: dict[str, list[tuple[float, float, float]]]


def save_curves(path: Path, panels: Sequence[Errors], x: str, about: dict[str, str]) -> Path:
    """Saves statistics with their standard errors over x, four panels in a row."""
    figure, all_axes = _panels(len(panels), 4, "")
    for axes, (title, curves) in zip(all_axes, panels, strict=False):
        for name, points in curves.items():
            at, values, errors = np.transpose(points)
            axes.errorbar(at, values, errors, marker=".", capsize=2, linewidth=1, label=name)
        axes.set(title=title, xlabel=x)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    all_axes[0].legend(fontsize=8, frameon=False)
    return _save(figure, path, about)


def save_clouds(
    path: Path,
    rows: dict[str, dict[str, Float[np.ndarray, "n 2"]]],
    half_width: float,
    about: dict[str, str],
) -> Path:
    """Saves sets of points in the plane by the titles of their row and column."""

    def scatter(axes: Any, points: np.ndarray) -> None:
        axes.scatter(*points.T, s=1, alpha=0.4, linewidths=0)
        axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width))

    return _save_panels(path, rows, scatter, 2.0, 10, about)


def save_maps(
    path: Path,
    rows: dict[str, dict[str, Float[np.ndarray, "side side"]]],
    about: dict[str, str],
) -> Path:
    """Saves densities by the titles of their row and column, each from 0 to its maximum."""

    def contours(axes: Any, density: np.ndarray) -> None:
        axes.contourf(density, np.linspace(0, density.max(), 13))

    return _save_panels(path, rows, contours, 1.4, 9, about)


def _save_panels(
    path: Path,
    rows: dict[str, dict[str, Any]],
    draw: Callable[[Any, Any], None],
    side: float,
    fontsize: int,
    about: dict[str, str],
) -> Path:
    """Saves square panels without ticks, each drawn by draw(axes, values), `side` inches wide."""
    first = next(iter(rows.values()))
    size = side * len(first) + 0.5, side * len(rows) + 0.3
    figure, all_axes = _subplots(len(rows), len(first), figsize=size, squeeze=False)
    for axes, title in zip(all_axes[0], first, strict=True):
        axes.set_title(title, fontsize=fontsize)
    for axes_of_row, (name, panels) in zip(all_axes, rows.items(), strict=True):
        axes_of_row[0].set_ylabel(name)
        for axes, values in zip(axes_of_row, panels.values(), strict=True):
            draw(axes, values)
            axes.set(xticks=[], yticks=[])
            axes.set_aspect("equal")
    return _save(figure, path, about)


class Ways(NamedTuple):
    """A panel of ways x(t): the density of x_t, [x, t], and paths [n, times] over it."""

    title: str
    density: Float[np.ndarray, "side times"]
    paths: Float[np.ndarray, "n times"]


def save_ways(
    path: Path,
    panels: Sequence[Ways],
    times: Float[np.ndarray, " times"],
    half_width: float,
    about: dict[str, str],
) -> Path:
    """Saves ways of numbers over time, each in the colour of its place at the last time."""
    size = 4 * len(panels) + 0.5, 3.4
    figure, all_axes = _subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axes, (title, density, paths) in zip(all_axes[0], panels, strict=True):
        x = np.linspace(-half_width, half_width, len(density))
        levels = np.linspace(0, 1, 9)
        axes.contourf(times, x, density / density.max(axis=0), levels, cmap="Greys", alpha=0.6)
        for way in paths[np.argsort(paths[:, -1])]:
            axes.plot(times, way, linewidth=0.9)
        axes.set(title=title, xlabel="t", ylim=(-half_width, half_width))
    all_axes[0, 0].set_ylabel("x")
    return _save(figure, path, about)


class Estimate(NamedTuple):
    """A panel of an estimated field: its arrows on a mesh, and a map of its error."""

    title: str
    arrows: Float[np.ndarray, "m 2"]
    error: Float[np.ndarray, "side side"]


class Lines(NamedTuple):
    """A panel of curves: (x, y) by name, dotted curves of the same names, and the exact level."""

    title: str
    label: str
    curves: dict[str, list[tuple[float, float]]]
    dotted: dict[str, list[tuple[float, float]]]
    level: float | None = None


def save_lines(
    path: Path, panels: Sequence[Lines], columns: int, about: dict[str, str], log: bool = True
) -> Path:
    """Saves curves in rows of `columns` panels; the axes are logarithmic unless log is False."""
    figure, axes = _panels(len(panels), columns, "")
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    for panel, (title, label, curves, dotted, level) in zip(axes, panels, strict=False):
        for name, points in curves.items():
            k, line = names.index(name), ".-" if len(points) < FEW else "-"
            panel.plot(*zip(*points, strict=True), line, color=f"C{k}", linewidth=1, label=name)
            panel.plot(*np.transpose(dotted.get(name, np.zeros((0, 2)))), ":", color=f"C{k}")
        if level is not None:
            panel.axhline(level, color="0.5", linewidth=1, zorder=0)
        panel.set(title=title, xlabel=label)
        if log:
            panel.set(xscale="log", yscale="log")
        panel.legend(fontsize=8, frameon=False)
    return _save(figure, path, about)


def save_estimates(
    path: Path,
    mesh: Float[np.ndarray, "m 2"],
    estimates: Sequence[Estimate],
    density: Float[np.ndarray, "side side"],
    lines: Sequence[Lines],
    half_width: float,
    about: dict[str, str],
) -> Path:
    """Saves fields over maps of their errors with contours of the data's density; curves below."""
    figure = _figure((3.1 * len(estimates), 7))
    above, below = figure.subfigures(2, 1)
    extent = (-half_width, half_width, -half_width, half_width)
    axes = above.subplots(1, len(estimates))
    for panel, (title, arrows, error) in zip(axes, estimates, strict=True):
        style = {"origin": "lower", "extent": extent}
        panel.imshow(error, cmap="YlOrRd", vmin=0, vmax=1, **style)
        levels = np.max(density) * np.array([0.02, 0.2, 0.6])
        panel.contour(density, levels, colors="tab:blue", linewidths=0.7, **style)
        panel.quiver(*mesh.T, *arrows.T, width=0.004)
        panel.set_title(title, fontsize=10)
        panel.set(xticks=[], yticks=[])
    above.colorbar(axes[0].images[0], ax=axes, shrink=0.7, label="sigma |score - exact|")
    for panel, (title, label, curves, dotted, level) in zip(
        below.subplots(1, len(lines), squeeze=False)[0], lines, strict=True
    ):
        ticks = [x for x, _ in next(iter(curves.values()))]
        few = len(ticks) < 10
        if few:
            panel.set_xscale("log")
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
        for k, (name, points) in enumerate(curves.items()):
            style = {"color": f"C{k}", "marker": "os^D"[k] if few else ""}
            panel.plot(*zip(*points, strict=True), **style, label=name)
            panel.plot(*np.transpose(dotted.get(name, np.zeros((0, 2)))), ":", color=f"C{k}")
        if level is not None:
            panel.axhline(level, color="0.5", linewidth=1, zorder=0)
        panel.set(yscale="log", xlabel=label)
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, frameon=False)
    return _save(figure, path, about)


def save_by_length(
    path: Path, panels: dict[str, list[tuple[float, float, float]]], about: dict[str, str]
) -> Path:
    """Saves (length of the average, value, standard error) of each figure, a panel each."""
    columns = min(len(panels), 3)
    figure, axes = _panels(len(panels), columns, "")
    for panel, (name, points) in zip(axes, panels.items(), strict=False):
        length, value, error = np.transpose(points)
        panel.errorbar(length, value, error, marker="o", markersize=4, capsize=2)
        panel.set_title(name, fontsize=10)
        panel.set(xlabel="EMA length")
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    return _save(figure, path, about)


def _panels(n: int, columns: int, label: str, **options: Any) -> tuple[Any, list[Any]]:
    """A figure of n panels in rows of `columns`; the first of each row has the label."""
    rows = -(-n // columns)
    options |= {"figsize": (4 * columns + 1, 3 * rows)}
    figure, axes = _subplots(rows, columns, squeeze=False, **options)
    for row in axes:
        row[0].set_ylabel(label)
    for panel in axes.flat:
        panel.grid(alpha=0.3)
    return figure, list(axes.flat)


def _subplots(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **options: Any
) -> tuple[Any, Any]:
    """A figure of figsize, in inches, and its panels, as matplotlib's subplots returns them."""
    figure = _figure(figsize)
    return figure, figure.subplots(rows, columns, **options)


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure  # takes 0.3 s: no command waits for it in vain

    return Figure(size, layout="constrained")


def _save(figure, path: Path, about: dict[str, str]) -> Path:
    if hosts.is_first():
        with files.replacing(path) as file:
            figure.savefig(file, format="png", dpi=110, metadata=about)
    return path

"""Mode likelihood: bits/dim of the test set by a trained model, and of each of its samples."""

from experiments.commands.request import Request
from experiments.evaluation import metrics
from experiments.pipeline import likelihood
from experiments.runs import card


def run(request: Request) -> None:
    """Prints the mean, and writes the bits/dim and the log density of each sample."""
    model = request.model()
    dataset = model.dataset()
    values = dataset.test, model.conditions.from_data(dataset, "test")
    bits = likelihood.bits_per_dim(model, values)
    found = metrics.likelihood_figures(model, bits)
    table = metrics.save_likelihoods(model, bits)
    print(table)
    for name, figure in found.items():
        print(f"{name} {figure}")
    print(table.with_suffix(".npz"))
    card.update(request.folder, model.step, found, model.ema_length)

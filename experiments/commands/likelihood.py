"""Mode likelihood: bits/dim of the test set by a trained model, and of each of its samples."""

from experiments.commands.request import Request
from experiments.evaluation import metrics
from experiments.pipeline import likelihood
from experiments.runs import card


def run(request: Request) -> None:
    """Prints the mean, and writes the bits/dim of each sample."""
    model = request.model()
    dataset = model.dataset()
    values = dataset.test, model.conditions.from_data(dataset, "test")
    bits = likelihood.bits_per_dim(model, values)
    name = metrics.bits_name(model)
    print(metrics.save_likelihoods(model, bits))
    print(f"{name} {bits}")
    card.update(request.folder, model.step, {name: str(bits)})

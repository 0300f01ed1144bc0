"""Losses of models that sample in few steps: consistency models and mean flows."""

from sde_lib.few_steps.consistency import Curriculum, consistency_loss
from sde_lib.few_steps.mean_flow import MeanFlow, mean_flow_loss

__all__ = ["Curriculum", "MeanFlow", "consistency_loss", "mean_flow_loss"]

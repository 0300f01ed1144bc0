"""The command line: score-sde-jax, or python -m score_sde_jax."""

from experiments.main import run

if __name__ == "__main__":
    run()

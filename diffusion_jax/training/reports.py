"""Reports of a training: means of metrics, warnings, pictures of the losses."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import averages, files
from diffusion_jax.runs import metric_log, plots
from diffusion_jax.training import state, step

LAGGING = 0.01
"""Share of initial weights in an average above which its losses and samples come with a warning."""
FIGURES = ("curves.png", "loss_by_time.png")
"""Files of `draw_losses`."""
RAW_LOSS = "heldout_loss_raw"
"""Metric: the held-out loss of the raw weights, where `heldout_loss` uses an average."""


def summary(window: list[dict[str, Any]]) -> dict[str, float]:
    """Return the means of metrics over steps. If possible, over the steps with a finite update."""
    values = {name: np.array([metrics[name] for metrics in window]) for name in window[0]}
    finite = np.isfinite(values["loss"]) & np.isfinite(values["grad_norm"])
    means = {name: float(of_steps[finite if finite.any() else slice(None)].mean()) for name, of_steps in values.items()}
    return means | {"skipped": float(values["skipped"][-1])}


def heldout_text(losses: Mapping[str, float], name: str) -> str:
    """Return held-out losses as text, each with its weights."""
    text = f"{losses['heldout_loss']:.5f} ({state.describe_weights(name)})"
    return text + (f", {losses[RAW_LOSS]:.5f} (raw weights)" if RAW_LOSS in losses else "")


def draw_losses(workdir: str, name: str) -> None:
    """Draw the losses into workdir/curves.png, and by time into loss_by_time.png. name: of the weights behind them."""
    path, records = files.place_of(workdir).resolve(), metric_log.read_metrics(workdir)
    plots.losses(path / FIGURES[0], records, path.name, state.describe_weights(name))
    if any(name.startswith("heldout_loss_bin_") for record in records for name in record):
        plots.loss_by_time(path / FIGURES[1], records, path.name, step.BINS)


def is_drawn(n: int, every: int) -> bool:
    """Return True if samples are drawn after step n. At 1 % and 10 % of `every`, then every `every` steps."""
    return n % every == 0 or n in (every // 100, every // 10)


def lag(config: ConfigDict, name: str, updates: int) -> str:
    """Return a warning about an average that lags behind the weights, else "".

    The warning is given while the average holds more than LAGGING of the initial weights.
    """
    if name == state.RAW or ":" in name or updates < 2:  # after one update an average is a copy
        return ""
    share = averages.initial_share(float(name), updates, config.ema.ramp)
    if share <= LAGGING:
        return ""
    return (
        f"{state.describe_weights(name)}: {100 * share:.0f} % of this average is the initial weights after {updates:,} "
        "updates, so that its losses and samples lag behind. Look at the raw weights (--ema=none), or train with "
        "ema.ramp=0.05 or a smaller decay in ema.decays"
    )


def divergence(n: int, before: int, good: int | None, losses: dict[str, float]) -> str:
    """Return the text of `Diverged`; `before`: the last finite step, `good`: the last checkpoint until then."""
    bins = ", ".join(f"{value:.4g}" for name, value in sorted(losses.items()) if "_bin_" in name)
    return (
        f"the {n - before} updates of steps {before + 1} to {n} were not finite (held-out loss by tenths of t: "
        f"{bins or 'not measured'}; last good checkpoint: {'none' if good is None else f'step {good}'}). Lower "
        "optimizer.learning_rate or choose another loss, in another --workdir, or allow guard.rollbacks"
    )

"""Every key with its default and meaning."""

import functools
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax.config import option_meanings


class Key(NamedTuple):
    """A key of the schema. `{names}` in a meaning stands for the names that its section can choose."""

    default: Any
    meaning: str


# The schema: every key that is no option of a choice. Options come from the signatures of the choices, see `choices`.

SCHEMA: dict[str, Key] = {
    "seed": Key(0, "Seed of the parameters, the order of the data, the times and the noise."),
    "train_steps": Key(1000, "Optimiser steps in all."),
    "batch_size": Key(128, "Examples of the global batch, over all devices."),
    "accumulate_steps": Key(1, "Parts in which each device works through its share of the batch."),
    "parallel": Key("shard_map", "shard_map, fsdp (the training state is divided over the devices) or pmap."),
    "remat": Key(False, "Recompute blocks in the backward pass: less memory, more time."),
    "require_accelerator": Key(False, "Refuse to run on a CPU."),
    "data.name": Key("digits", "Source: digits, toy2d, heartbeat, dead_leaves, arrays, folder, idx, tfds."),
    "data.flip": Key(False, "Mirror training images left to right at random."),
    "data.augment": Key(0.0, "Probability of each transform of training images, flips to shifts; 0: none."),
    "data.coupling": Key("none", "Noise of a training batch: none (independent), optimal_transport (assigned to it)."),
    "data.workers": Key(0, "Processes that read and decode files; 0: threads."),
    "data.shape": Key((), "Shape of an example; filled in from the data when training starts."),
    "data.levels": Key(0, "Grey levels: 256 for photographs, 0 for floats; filled in from the data."),
    "data.classes": Key(0, "Number of classes; filled in from the data."),
    "data.size": Key(0, "Number of training examples; filled in from the data."),
    "data.class_names": Key((), "Names of the classes, where they have some; filled in from the data."),
    "data.fingerprint": Key("", "Hash of some training examples; filled in from the data."),
    "data.heldout_fingerprint": Key("", "Hash of some held-out examples; filled in when training evaluates them."),
    "data.mean": Key(0.0, "The model sees (x - mean) / std of data in [-1, 1]."),
    "data.std": Key(1.0, "See data.mean."),
    "data.dequantise": Key(False, "Add uniform noise of one grey level, so that the data have a density."),
    "process.name": Key("gaussian", "Forward process: gaussian, binomial (two levels), categorical (2 to 256)."),
    "process.num_steps": Key(1000, "Steps T of the chain, at times k/T; 0: continuous time."),
    "schedule.name": Key("linear", "Noise schedule: {names}."),
    "network.name": Key("unet", "Network: {names}."),
    "network.conditional": Key(False, "Condition the network on the class label."),
    "network.label_dropout": Key(0.0, "Share of labels dropped in training, for classifier-free guidance."),
    "network.conditioning": Key(
        "step", "Time input of the network: step (k - 1), time (999 t), slow_time (8 t), logsnr, log_sigma."
    ),
    "prediction.target": Key(
        "eps", "Network output: eps, x0, v, velocity, score, posterior_mean, edm, dpm2015_paper, dpm2015_code."
    ),
    "prediction.input_scaling": Key("none", "none, or unit_variance: the input divided by its standard deviation."),
    "prediction.sigma_data": Key(0.5, "Standard deviation of the data in [-1, 1], for edm and unit_variance."),
    "prediction.variance": Key(
        "fixed_large",
        "Variance of the reverse kernel: fixed_small, fixed_large; with a bound as loss also learned_diagonal, "
        "learned_range, dpm2015_paper, dpm2015_code.",
    ),
    "latent.workdir": Key("", "Run directory of an autoencoder (loss.name=elbo), in whose latents to train."),
    "latent.step": Key("newest", "Checkpoint of that run: newest, best or a number."),
    "latent.ema": Key("", "Average of that run: a decay, none, or empty for the first."),
    "latent.autoencoder": Key("", "File of the autoencoder in the run directory; filled in when training starts."),
    "loss.name": Key(
        "simple",
        "Weighted squared errors: simple, snr, truncated_snr, min_snr, p2, edm, likelihood. Bounds: vlb, hybrid, vdm, "
        "K, masked (masked diffusion). mean_flow: mean velocities, for few steps. cross_entropy trains a classifier of "
        "noisy examples, elbo an autoencoder, gan a generator.",
    ),
    "loss.reduction": Key("mean", "Over the dimensions of a squared error: mean, sum, half_sum."),
    "times.name": Key(
        "uniform", "Distribution of t: uniform, low_discrepancy, importance, logit_normal, log_normal (of sigma)."
    ),
    "times.min_t": Key(0.0, "Smallest time in continuous training."),
    "bound.decoder": Key("bins", "Last term of the bound: bins, bins_tanh, softmax; density for floats."),
    "bound.clip_x0": Key(True, "Clip the predicted x0 to [-1, 1] in the bound."),
    "bound.num_steps": Key(0, "Steps of the bound; 0: all steps of the chain."),
    "bound.num_examples": Key(0, "Held-out examples of every likelihood; 0: eval.max_examples."),
    "bound.paths": Key((1, 4, 16), "Numbers of whole paths of the bound `multi`; each divides the next."),
    "ode.rtol": Key(1e-5, "Relative tolerance per step of the probability-flow ODE."),
    "ode.atol": Key(1e-5, "Absolute tolerance per step of the probability-flow ODE."),
    "ode.max_calls": Key(10_000, "Network calls after which the ODE counts as unsolved."),
    "ode.min_t": Key(0.0, "Time at which the ODE ends; 0: the lowest level with noise, else 1e-5."),
    "ode.trace": Key("rademacher", "Divergence: rademacher or gaussian probes, or exact."),
    "ode.probes": Key(1, "Probes of the divergence per example."),
    "ode.dequantisation": Key("uniform", "Noise over a grey level: uniform, process (the noise of min_t), none."),
    "ode.law": Key("prior", "Distribution at t = 1: prior N(0, alpha² + sigma²), noise N(0, sigma²)."),
    "optimizer.name": Key("adam", "Optimiser: adam, adamw, lion, muon."),
    "optimizer.learning_rate": Key(2e-4, "Learning rate after the warm-up, before any decay."),
    "optimizer.warmup_steps": Key(5000, "Steps of linear warm-up from 0."),
    "optimizer.schedule": Key("constant", "Learning rate after the warm-up: constant, linear, cosine, inverse_sqrt."),
    "optimizer.grad_clip": Key(1.0, "Largest global norm of the averaged gradient; 0: no clipping."),
    "ema.decays": Key(
        (0.9999,), "Averages of the parameters, of which --ema is the first: decays, or power:SIGMA_REL (post-hoc)."
    ),
    "ema.ramp": Key(0.05, "Half-life of an average at most ramp times the updates so far; 0: no ramp."),
    "sampler.name": Key("ancestral", "Sampler: ancestral, ddim, dpmpp_2m, …; docs/samplers.md lists all."),
    "sampler.num_steps": Key(0, "Sampling steps; 0: all steps of the chain, down to sampler.min_t."),
    "sampler.grid": Key(
        "uniform", "Time grid: uniform, quadratic, logsnr, karras; of a chain also inclusive, strided, to_first."
    ),
    "sampler.levels": Key((), "Levels k of the chain one by one, such as (1000, 500, 1), instead of num_steps."),
    "sampler.times": Key((), "Times one by one, such as (1.0, 0.5, 0.0), instead of num_steps."),
    "sampler.min_t": Key(0.0, "Time at which the grid ends; of a chain k/T, with 1/T the first level."),
    "sampler.clip_x0": Key(True, "Clip the predicted x0 to [-1, 1] at every step (never with posterior_mean)."),
    "sampler.dynamic_threshold": Key(
        0.0, "Quantile s of |x0|, such as 0.995: clip x0 to [-s, s] and divide by s where s > 1; 0: clip to [-1, 1]."
    ),
    "sampler.keep_eps": Key(False, "Keep the predicted eps where x0 is clipped, as DDIM in diffusers does."),
    "sampler.denoise": Key(True, "End at the predicted x0 where the schedule's last level still has noise."),
    "sampler.tile": Key(64, "Samples per device and call; no sample depends on how many are drawn."),
    "guidance.name": Key("none", "none, classifier_free, classifier, autoguidance."),
    "guidance.scale": Key(1.0, "w of weak + w (strong - weak); 1: no guidance. classifier: factor of its gradient."),
    "guidance.interval_t": Key((0.0, 1.0), "Times between which guidance acts."),
    "guidance.rescale": Key(0.0, "Interpolation of the standard deviation of x0 to that without guidance; 0: off."),
    "guidance.classifier.workdir": Key("", "Run directory of a classifier (loss.name=cross_entropy)."),
    "guidance.classifier.step": Key("best", "Checkpoint of that run: newest, best or a number."),
    "guidance.classifier.ema": Key("", "Average of that run: a decay, none, or empty for the first."),
    "guidance.autoguidance.workdir": Key("", "Run directory of the worse model; empty: this run."),
    "guidance.autoguidance.step": Key("newest", "Checkpoint of that run: newest, best or a number."),
    "guidance.autoguidance.ema": Key("", "Average of that run: a decay, none, or empty for the first."),
    "checkpoint.every": Key(10_000, "Steps between checkpoints."),
    "checkpoint.keep": Key(2, "Newest checkpoints that stay on disk."),
    "checkpoint.keep_every": Key(0, "Steps between checkpoints that stay for good; 0: none."),
    "checkpoint.best": Key("heldout_loss", "Figure of --step=best: heldout_loss, or a metric (fd_pixels_500)."),
    "guard.most_skipped": Key(100, "Updates in a row that are not finite before training ends."),
    "guard.rollbacks": Key(0, "Times a diverged run goes back to its last checkpoint instead of ending."),
    "report.every": Key(100, "Steps between lines of metrics."),
    "report.samples_every": Key(10_000, "Steps between sample pictures, with early ones as well; 0: none."),
    "report.num_samples": Key(64, "Samples of a picture."),
    "report.sampler_steps": Key(0, "Sampling steps of pictures; 0: sampler.num_steps."),
    "report.tensorboard": Key(True, "Write TensorBoard files where TensorFlow is installed."),
    "report.wandb": Key("", "Project of Weights & Biases to write to as well; empty: none."),
    "eval.every": Key(10_000, "Steps between held-out losses; 0: never."),
    "eval.max_examples": Key(10_000, "Held-out examples of an evaluation at most."),
    "eval.passes": Key(1, "Passes over the held-out set, each with other times and noise."),
    "eval.num_samples": Key(1000, "Samples that `main evaluate` draws."),
    "eval.quality_every": Key(0, "Steps between sample-quality metrics during training; 0: never."),
    "eval.quality_samples": Key(500, "Samples of these metrics."),
    "eval.quality_metrics": Key(("fid", "pr"), "These metrics: fid, kid, is, pr, nn."),
    "eval.features": Key("pixels", "Feature network of these metrics: pixels, digits, grey28, inception, MODULE:NAME."),
    "eval.svm": Key(False, "Classify samples by an SVM fitted on the labelled training data, for small data sets."),
}  # fmt: skip


@functools.cache
def choices() -> dict[str, dict[str, Any]]:
    """Return the factories of every section that makes a choice, by section and name."""
    from diffusion_jax.experiment import objectives, optimizers, paths, sources, wiring
    from diffusion_jax.networks.registry import NETWORKS
    from diffusion_jax.objective import time_sampling
    from diffusion_jax.sampling import grids
    from diffusion_jax.sampling.registry import SAMPLERS

    return {
        "data": sources.SOURCES,
        "process": wiring.PROCESSES,
        "schedule": paths.SCHEDULES,
        "network": NETWORKS,
        "loss": objectives.LOSSES,
        "times": time_sampling.TIME_SAMPLERS,
        "optimizer": {**optimizers.OPTIMIZERS, **optimizers.RATES},
        "sampler": {**SAMPLERS, **grids.GRIDS},
    }


@functools.cache
def flat_defaults() -> dict[str, Any]:
    """Return every key with its default: per section its own keys, then the options."""
    from diffusion_jax.experiment.choices import signature_options

    sections: dict[str, dict[str, Any]] = {}
    for key, (default, _) in SCHEMA.items():
        sections.setdefault(key.partition(".")[0] if "." in key else "", {})[key] = default
    for section, factories in choices().items():
        for name, factory in factories.items():
            for option, default in signature_options(factory).items():
                sections[section].setdefault(f"{section}.{name}.{option}", default)
    return {key: default for of_section in sections.values() for key, default in of_section.items()}


def defaults() -> ConfigDict:
    """Return a config with every key at its default. The defaults are DDPM with L_simple, on the embedded digits."""
    nested: dict[str, Any] = {section: {name: {} for name in factories} for section, factories in choices().items()}
    for key, default in flat_defaults().items():
        *sections, last = key.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = default
    return ConfigDict(nested)


def table() -> list[tuple[str, str, Any, str]]:
    """Return (key, type, default, meaning) of every key."""
    rows = []
    for key, default in flat_defaults().items():
        if key in SCHEMA:
            meaning = SCHEMA[key].meaning.replace("{names}", ", ".join(choices().get(key.partition(".")[0], ())))
        else:
            section, name, _ = key.split(".")
            first_line = (choices()[section][name].__doc__ or "").strip().partition("\n")[0]
            meaning = option_meanings.meaning(key) or f"{section} {name}: {first_line.rstrip('.')}."
        rows.append((key, type(default).__name__, default, meaning))
    return rows

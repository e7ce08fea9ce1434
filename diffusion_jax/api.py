"""Python interface: define, train, sample and evaluate a model.

    import diffusion_jax as dj

    model = dj.Model(MyNet(), schedule=dj.schedules.cosine(num_steps=1000), target="v")
    run = dj.train(model, images, train_steps=5000, batch_size=128, seed=0)
    x = run.sample(64, sampler=dj.samplers.dpmpp_2m(), num_steps=20, seed=0)
    run = dj.load("runs/digits")                                   # a run trained by the command line

Everything here goes through the same configs, training loop and files as the command line.
"""

import contextlib
import dataclasses
import functools
import inspect
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax import devices
from diffusion_jax.analysis import (
    compression,
    detection,
    inverse_problems,
    latents,
    likelihoods,
    representation,
    restoring,
    sample_metrics,
)
from diffusion_jax.analysis.estimators import needs_no_label
from diffusion_jax.data.source import Source, from_arrays
from diffusion_jax.experiment import choices, sources, wiring
from diffusion_jax.experiment.choices import Instance
from diffusion_jax.networks import adapter
from diffusion_jax.objective import reverse
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process.base import Array, Level, Schedule, expand, in_float64
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.runs import metric_log, trained
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.base import starting
from diffusion_jax.sampling.registry import SAMPLERS
from diffusion_jax.training import loop as training


@dataclasses.dataclass(frozen=True)
class Choice:
    """A schedule, sampler, loss or process with its options: what `dj.schedules.cosine(...)` returns.

    Called, it is the object itself: `dj.schedules.cosine(num_steps=1000)(t)` returns (log alpha, log sigma).
    """

    section: str
    name: str
    options: Mapping[str, Any]

    def make(self, **provided: Any) -> Any:
        """Return the object. provided: further arguments of its factory. Raises ValueError."""
        return choices.make(self.section, self.name, configs.choices()[self.section], self.options, **provided)

    def __call__(self, *arguments: Any) -> Any:
        """Call the object."""
        return self._made(*arguments)

    @functools.cached_property
    def _made(self) -> Any:
        return self.make()

    def put(self, config: ConfigDict) -> None:
        """Write the choice into a config."""
        config[self.section].name = self.name
        for key, value in self.options.items():
            where = "process.num_steps" if key == "num_steps" else f"{self.section}.{self.name}.{key}"
            configs.put(config, where, value)


class Namespace:
    """The choices of a section as functions: `dj.samplers.ddim(eta=0.5)` returns a `Choice`."""

    def __init__(self, section: str) -> None:
        """Make one function per choice of a config section."""
        self._section = section
        table = SAMPLERS if section == "sampler" else configs.choices()[section]  # without the time grids
        for name, factory in table.items():
            setattr(self, name, self._function(name, factory))

    def _function(self, name: str, factory: Any) -> Callable[..., Choice]:
        given = set(choices.PROVIDED) - {"num_steps"}  # the experiment gives these
        taken = inspect.signature(factory)
        taken = taken.replace(parameters=[p for key, p in taken.parameters.items() if key not in given])

        def choice(*values: Any, **options: Any) -> Choice:
            try:
                bound = taken.bind_partial(*values, **options)
            except TypeError as error:
                raise ValueError(f"{self._section}.{name}: {error}; it takes {taken}") from error
            return Choice(self._section, name, dict(bound.arguments))

        choice.__name__ = choice.__qualname__ = name
        choice.__doc__ = factory.__doc__
        choice.__signature__ = taken  # type: ignore[attr-defined]
        return choice

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the choices."""
        return (name for name in vars(self) if not name.startswith("_"))

    def __repr__(self) -> str:
        return f"<{self._section}: {', '.join(self)}>"


@dataclasses.dataclass(frozen=True)
class Model:
    """A diffusion model to be trained.

    It has a network, a noise schedule, a prediction target, and a loss.

    Arguments:
        network: a linen module with `__call__(x, time)` or `(x, time, label)`, x [B,*D] -> [B,*D]. It may use flax's
            Dropout, with a `train` or `deterministic` argument or by `self.has_rng("dropout")`. Networks of this
            package (`dj.networks`) work as well.
        schedule: of `dj.schedules`, its name, or a function t -> (log_alpha, log_sigma) of t in [0, 1].
        target: what the network predicts: "eps", "x0", "v", "score", "velocity", "edm", "posterior_mean", another name
            of the key `prediction.target`, or `module:function`.
        loss: of `dj.losses`, or its name.
        process: of `dj.processes`, or its name.
        num_steps: steps of the chain; 0: continuous time. None: 1000 for a schedule given by name, 0 for a function,
            and for `dj.schedules.…` its own `num_steps`, 0 where it has none.
        conditioning: the time for the network: "step" (k - 1 = 0 … T - 1), "time" (999 t), "slow_time" (8 t), "logsnr",
            "log_sigma". Default: "step" for a chain, "time" in continuous time.
        label_dropout: share of labels dropped (-1) in training, for classifier-free guidance.
        options: any other keys of the config, such as {"prediction.variance": "fixed_small"}.
    """

    network: nn.Module
    schedule: Choice | Schedule | str = "linear"
    target: str = "eps"
    loss: Choice | str = "simple"
    process: Choice | str = "gaussian"
    num_steps: int | None = None
    conditioning: str = ""
    label_dropout: float = 0.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def config(self) -> ConfigDict:
        """Return the config of the model.

        Keys that the model does not set have their defaults. Raises ValueError, naming the argument or the key, for a
        choice or an option that does not exist.
        """
        config = configs.defaults()
        _put_network(config, self.network)
        for section, choice in (("schedule", self.schedule), ("loss", self.loss), ("process", self.process)):
            if isinstance(choice, Choice):
                if choice.section != section:
                    raise ValueError(f"Model: {section} must be of dj.{section}s, not {choice.section} {choice.name!r}")
                choice.put(config)
            elif isinstance(choice, str):
                configs.put(config, f"{section}.name", choice)
            else:
                configs.put(config, f"{section}.name", Instance(choice, spelling(choice)))
        if self.num_steps is not None:
            config.process.num_steps = self.num_steps
        elif isinstance(self.schedule, Choice) and "num_steps" not in self.schedule.options:
            factory = configs.choices()["schedule"][self.schedule.name]
            if "num_steps" not in inspect.signature(factory).parameters:
                config.process.num_steps = 0
        elif callable(self.schedule) and not isinstance(self.schedule, Choice):
            config.process.num_steps = 0
        config.prediction.target = self.target
        config.network.conditioning = self.conditioning or ("step" if config.process.num_steps else "time")
        config.network.label_dropout = self.label_dropout
        if not config.process.num_steps:
            config.sampler.update(num_steps=100, min_t=0.0)
            config.times.min_t = 1e-5
        for key, value in self.options.items():
            _put_known(config, key, value)
        return config


def train(
    model: Model,
    data: Any,
    *,
    labels: Any = None,
    heldout: Any = None,
    heldout_labels: Any = None,
    levels: int | None = None,
    train_steps: int = 5000,
    batch_size: int = 128,
    learning_rate: float = 2e-4,
    seed: int = 0,
    workdir: str | pathlib.Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> "Run":
    """Train a model on arrays, and return the run. The same call with the same workdir resumes.

    Arguments:
        data: uint8 images [N,H,W,C] (or [N,H,W]), or floats [N,*D]: vectors of any range, images in [-1, 1].
        labels: int [N], 0 … classes - 1, for a network that takes a label.
        heldout, heldout_labels: data of the same kind to measure the held-out loss on.
        levels: grey levels of integer data (default 256), 0 for floats.
        learning_rate: of Adam, after a warm-up of a tenth of the steps, at most 5,000. A resumed run keeps its warm-up.
        workdir: run directory with checkpoints, metrics and pictures; None: a temporary one, gone with the run.
        options: any other keys of the config, such as {"optimizer.adam.weight_decay": 0.01, "parallel": "fsdp"}.

    Raises ValueError, before anything compiles, where model, data and options do not fit; `Diverged` where training
    diverges.
    """
    source, held = _sources(data, labels, levels, "data"), None
    if heldout is not None:
        held = _sources(heldout, heldout_labels, source.levels, "heldout")
        if held.shape != source.shape:
            raise ValueError(f"heldout: has shape {held.shape}, the training data {source.shape}")
    config = model.config()
    if labels is not None and not adapter.inspect_call(model.network).label:
        raise ValueError(
            f"labels: {type(model.network).__name__} takes no label; its __call__ must be (x, time, label)"
        )
    splits = {"train": source} | ({"heldout": held} if held else {})
    configs.put(config, "data.name", Instance(splits, sources.IN_MEMORY))
    config.update(train_steps=train_steps, batch_size=batch_size, seed=seed)
    config.network.conditional = labels is not None
    config.optimizer.update(learning_rate=learning_rate, warmup_steps=_warmup_steps(train_steps, workdir))
    tenth = max(1, train_steps // 10)
    config.report.update(every=tenth, samples_every=0 if workdir is None else 5 * tenth, tensorboard=False)
    config.eval.every = tenth if held else 0
    config.checkpoint.every = 5 * tenth
    if not source.levels:
        config.bound.update(decoder="density", clip_x0=False)
        config.sampler.clip_x0 = len(source.shape) == 3
    for key, value in (options or {}).items():
        _put_known(config, key, value)
    if labels is None and config.network.label_dropout:
        raise ValueError("label_dropout: there are no labels; pass labels=")
    if held:
        configs.put(config, "data.classes", source.classes)
        splits["heldout"] = _like_the_run(config, held, "heldout_labels")
    place = str(workdir or tempfile.mkdtemp(prefix="diffusion_jax_"))
    training.train(config, place)
    run = Run(trained.load(place, given=_given(config)))
    if workdir is None:
        weakref.finalize(run, shutil.rmtree, place, ignore_errors=True)
    return run


def load(
    workdir: str | pathlib.Path,
    step: int | str = "newest",
    ema: str = "",
    *,
    network: nn.Module | None = None,
    schedule: Schedule | None = None,
    data: Any = None,
    labels: Any = None,
    heldout: Any = None,
    heldout_labels: Any = None,
) -> "Run":
    """Load a run from its directory.

    Arguments:
        step: "newest", "best" (by the key `checkpoint.best`, the lowest held-out loss by default) or a number.
        ema: decay of the average to use, "posthoc:SIGMA_REL", or "none" for the raw weights; "": the first one of the
            config.
        network, schedule: the objects the run was trained with, where they cannot be imported by name.
        data, labels, heldout, heldout_labels: the arrays of a run that was trained on arrays, to evaluate it.

    Raises FileNotFoundError or ValueError where there is no such run, or its network cannot be imported.
    """
    given: dict[str, Instance] = {}
    for key, made in (("network.name", network), ("schedule.name", schedule)):
        if made is not None:
            given[key] = Instance(made, spelling(type(made) if isinstance(made, nn.Module) else made))
    stored = trained.read_config(str(workdir), step) if data is not None or heldout is not None else None
    if stored is not None:
        pairs = {"train": (data, labels), "heldout": (heldout, heldout_labels)}
        splits = {
            name: _like_the_run(stored, _sources(x, y, stored.data.levels, name), f"labels of {name}")
            for name, (x, y) in pairs.items()
            if x is not None
        }
        given["data.name"] = Instance(splits, sources.IN_MEMORY)
    return Run(trained.load(str(workdir), step, ema, given=given))


class Run:
    """A trained model: config, weights, and functions to sample and evaluate it."""

    def __init__(self, inner: trained.Run) -> None:
        """Wrap a loaded run."""
        self._run = inner

    @property
    def config(self) -> ConfigDict:
        """The config that the run was trained with."""
        return self._run.config

    @property
    def params(self) -> Any:
        """The weights: {"net": …}, and "schedule" if it is learned."""
        return self._run.params

    @property
    def workdir(self) -> str:
        """The run directory."""
        return self._run.workdir

    @property
    def step(self) -> int:
        """The training step of the weights."""
        return self._run.step

    @property
    def ema(self) -> str:
        """The decay of the average that the weights are, or "none"."""
        return self._run.ema

    def sample(
        self,
        num_samples: int,
        *,
        sampler: Choice | str | None = None,
        num_steps: int | None = None,
        seed: int = 0,
        label: int | None = None,
        guidance_scale: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Draw samples [num_samples,*D] in the levels of the data: the same as `main sample` with these flags.

        Arguments:
            sampler: of `dj.samplers`, or its name; None: the sampler of the run's config.
            num_steps: sampling steps; None: as in the config, 0: all steps of the chain. In continuous time a last step
                to x0 is added where noise is left.
            seed: of the first sample; the next ones have seed + 1, …
            label: class of all samples; None: one drawn for each.
            guidance_scale: of classifier-free guidance; 1: none.
            options: other keys of the config, such as {"sampler.grid": "logsnr"}.

        Raises ValueError, and FloatingPointError for samples that are not finite.
        """
        run = self._changed(sampler, num_steps, guidance_scale, options)
        return trained.draw(run, num_samples, seed, label)[1]

    def likelihood(
        self,
        data: Any = None,
        labels: Any = None,
        *,
        estimators: str | Sequence[str] = "vlb",
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Estimate the likelihood of held-out or given data, in bits per dimension.

        estimators: of "vlb" (variational bound, `bits_per_dim`), "multi" (multi-path bound, `multi_bits_per_dim_K` for
        K paths), "ode" (probability-flow ODE, `ode_bits_per_dim`) and "K" (bound of the 2015 paper, `K_bits`, in bits
        per example; the larger the better). options: keys of the config, such as {"bound.num_steps": 100}.
        """
        run = self._on(data, labels, options)
        names = likelihoods.parse_names(estimators if isinstance(estimators, str) else ",".join(estimators))
        return likelihoods.prepare_likelihoods(run, names)()[0]

    def metrics(
        self,
        names: Sequence[str] = ("fid",),
        *,
        features: str = "pixels",
        num_samples: int = 0,
        seed: int = 0,
        heldout: bool = False,
        intervals: int = 100,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Compute sample-quality metrics by name: "fid", "kid", "is", "pr", "nn", "parzen".

        Arguments:
            features: feature network: "pixels", "digits", "grey28", "inception" or `module:function`. (The command line
                has "inception" by default.)
            num_samples: 0: as many as there are training examples, 10,000 for "parzen". Too few for the features are no
                error here; the result then has the entry `marked`.
            heldout: also the metrics of the held-out data, the reference of a perfect model.
            intervals: bootstrap replicates of the 95 % intervals; 0: none.
        """
        run = self._changed(None, None, None, options)
        chosen = sample_metrics.Options(num_samples, seed, ("few", "sizes"), intervals, heldout)
        return sample_metrics.prepare_metrics(run, list(names), features, "", "", chosen)()

    def encode(
        self, data: Any, labels: Any = None, *, by: str = "ode", options: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Return the noise at t = 1 that the model maps to the given data [N,*D], float32.

        by: "ode", to the tolerances `ode.rtol` and `ode.atol`, or "ddim", in the steps of the sampler. options: keys of
        the config, such as {"sampler.num_steps": 50}. Raises ValueError, and FloatingPointError for an ODE that cannot
        be solved to its tolerance.
        """
        source = self._source(data, labels)
        run = self._changed(None, None, None, options)
        return latents.encode(run, *source.read(np.arange(source.size)), by)[0]

    def decode(
        self, noise: Any, labels: Any = None, *, by: str = "ode", options: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Invert `encode`: return the data [N,*D] of noise at t = 1, in the levels of the data."""
        label = self._source(np.zeros(np.shape(noise)), labels, levels=0).read(np.arange(len(noise)))[1]
        run = self._changed(None, None, None, options)
        x0 = latents.decode(run, np.asarray(noise), label, by)[0]
        return np.asarray(sources.make_from_model(self.config)(x0))

    def restore(
        self,
        data: Any = None,
        labels: Any = None,
        *,
        task: str = "inpaint",
        rule: str = "noise_aware",
        num_examples: int = 16,
        noise: float | None = None,
        seed: int = 0,
        operator: str | Callable[[Array], Array] = "",
        method: str = "",
        draws: int = 1,
        repeats: int = 1,
        length: int = 10,
        y: Any = None,
        method_options: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **task_options: Any,
    ) -> dict[str, Any]:
        """Degrade and restore held-out data, or the given data.

        The degradation is a task, or any linear operator A of y = A x0 + noise. Returns arrays `degraded`, `restored`,
        `original` [N,*D], `mask`, and the figures `rmse`, `rmse_degraded`. task_options: of the task, such as
        mask="left" or factor=2. noise: standard deviation, in the range of the model; None: 0.5 where nothing else is
        degraded, else 0. options: keys of the config, such as {"sampler.num_steps": 50}. Raises ValueError.

        operator: identity, mask, blur, superres, grey, "module:function", or A, a function of one example in the range
        of the model. method: rule (the default of tasks), dps, pigdm or mmps (the default of operators), with
        method_options such as {"iterations": 5}. draws: for each observation, by methods other than rule or with an
        operator. repeats, length: of groups of steps (RePaint), of tasks by the rule. y: observations [N,*M] in place
        of data. `inverse_problems.solve` describes the arrays and figures.
        """
        run = self._on(data, labels, options)
        number = num_examples if data is None else len(data)
        if y is not None:
            needs_no_label("restore with y", self._run)
            if labels is not None:
                raise ValueError("labels: do not belong to observations y. Leave them out")
        by_operator = operator or y is not None or method not in ("", inverse_problems.RULE)
        if by_operator and repeats != 1:
            raise ValueError(f"repeats={repeats}: belongs to tasks by the rule, without operator, method and y")
        if not by_operator and (draws != 1 or method_options):
            raise ValueError(
                f"draws={draws}, method_options={method_options}: need an operator, or method dps, pigdm or mmps"
            )
        if by_operator:
            name = operator or choices.choose("--task", task, inverse_problems.TASKS)
            chosen = inverse_problems.make_operator(name, tuple(run.config.data.shape), **task_options)
            std = inverse_problems.default_noise(name) if noise is None else noise
            arrays, figures = inverse_problems.solve(
                run, chosen, method or "mmps", number, seed, std, draws, rule, y, **(method_options or {})
            )
            return {**arrays, **figures}
        std = inverse_problems.default_noise(task) if noise is None else noise
        degradation = choices.make("--task", task, restoring.TASKS, task_options, shape=tuple(run.config.data.shape))
        arrays, figures = restoring.restore(run, degradation, rule, number, seed, std, repeats, length)
        return {**arrays, **figures}

    def compress(
        self, data: Any, file: str | pathlib.Path, labels: Any = None, *, num_steps: int = 0
    ) -> dict[str, Any]:
        """Compress examples [N,*D] into a file without loss.

        Returns the length of the code in bits/dim. num_steps: steps of the chain; 0: bound.num_steps. See `main
        compress` for the figures. Raises ValueError where the run has no Gaussian chain over grey levels, ImportError
        without the package `constriction`.
        """
        run = self._on(data, labels, {"bound.num_steps": num_steps} if num_steps else None)
        return compression.compress(run, sources.source(run.config, "heldout"), file)

    def decompress(self, file: str | pathlib.Path) -> np.ndarray:
        """Return the examples [N,*D] of a file of `compress`. Raises ValueError for another or a damaged file."""
        bound = compression.read_header(file)["bound"]
        run = self._changed(None, None, None, {f"bound.{key}": value for key, value in bound.items()})
        return compression.decompress(run, file)[0]

    def detect(self, odd: Any, *, num_examples: int = 1000, num_steps: int = 10) -> dict[str, Any]:
        """Compare the scores of odd examples [N,*D] with the scores of held-out examples.

        Returns AUROC and more by score. odd="classes", of a conditional run with label dropout: each class in turn is
        normal and all other classes are odd; means over classes. num_examples: held-out examples, and odd ones at most.
        num_steps: N gives N + 1 noise levels. See docs/anomaly-detection.md. Raises ValueError for fewer than 20
        examples, examples of another shape, or a run whose process is not Gaussian.
        """
        run = self._changed(None, None, None, {"bound.num_steps": num_steps})
        if isinstance(odd, str) and odd == detection.CLASSES:
            return detection.detect_classes(run, num_examples)[0]
        source = _sources(odd, None, run.config.data.levels, "odd")
        return detection.detect(run, source, num_examples)[0]

    def represent(
        self, *, num_examples: int = 2000, num_steps: int = 5, seed: int = 0, num_classified: int = 500
    ) -> dict[str, Any]:
        """Measure linear probes, clusters and, of a conditional run, a diffusion classifier.

        num_examples: of the training and of the held-out data, at most. num_steps: noise levels. seed: of folds,
        k-means and mixtures. num_classified: held-out examples for the classifier; 0: none. See
        docs/representations.md for the figures. Raises ValueError.
        """
        run = self._changed(None, None, None, {"bound.num_steps": num_steps})
        return representation.represent(run, num_examples, seed, num_classified)

    def features(self, data: Any, *, num_steps: int = 5) -> dict[tuple[str, float], np.ndarray]:
        """Return the features [N,F] of data [N,*D] by block of the network and noise level t."""
        needs_no_label("features", self._run)
        run = self._on(data, None, {"bound.num_steps": num_steps})
        return representation.features(run, sources.source(run.config, "heldout"))

    def history(self) -> list[dict[str, Any]]:
        """Return the measurements of the training.

        One dict for each logged step (every `report.every` steps): {"step": …, "loss": …, …}.
        """
        return metric_log.read_metrics(self.workdir)

    def __repr__(self) -> str:
        return f"<Run {self.workdir}: step {self.step}, average {self.ema}>"

    # Parts of the above.

    def _changed(
        self,
        sampler: Choice | str | None,
        num_steps: int | None,
        guidance_scale: float | None,
        options: Mapping[str, Any] | None,
    ) -> trained.Run:
        """Return the run with other choices of sampling and evaluation."""
        config = self.config.copy_and_resolve_references()
        if isinstance(sampler, Choice):
            if sampler.section != "sampler":
                raise ValueError(f"sampler: must be of dj.samplers, not {sampler.section} {sampler.name!r}")
            sampler.put(config)
        elif sampler is not None:
            choices.choose("sampler", sampler, SAMPLERS)
            config.sampler.name = sampler
        if num_steps is not None:
            config.sampler.update(num_steps=num_steps, levels=(), times=())
        if guidance_scale is not None:
            config.guidance.update(name="classifier_free", scale=float(guidance_scale))
        for key, value in (options or {}).items():
            _put_known(config, key, value)
        experiment = wiring.build(config, self.params, guide=self._run.guide)
        return self._run._replace(config=config, experiment=experiment)

    def _on(self, data: Any, labels: Any, options: Mapping[str, Any] | None) -> trained.Run:
        """Return the run with the given data as its held-out split."""
        run = self._changed(None, None, None, options)
        if data is None:
            return run
        source = self._source(data, labels)
        try:
            splits = {"train": sources.source(run.config, "train")}
        except (ValueError, OSError):  # the training data are not at hand, and not every question needs them
            splits = {}
        configs.put(run.config, "data.name", Instance({**splits, "heldout": source}, sources.IN_MEMORY))
        return run

    def _source(self, data: Any, labels: Any, levels: int | None = None) -> Source:
        """Return arrays as a Source. Raises ValueError unless they are like the data of the run."""
        expected = self.config.data
        source = _sources(data, labels, expected.levels if levels is None else levels, "data")
        source = _like_the_run(self.config, source, "labels")
        if source.shape != tuple(expected.shape):
            raise ValueError(f"data: has shape {source.shape}; the model takes {tuple(expected.shape)}")
        return source


def sample(
    denoiser: Callable[[Array, Array], Array],
    schedule: Choice | Schedule,
    *,
    shape: tuple[int, ...],
    seeds: Iterable[int],
    sampler: Choice | str = "dpmpp_2m",
    num_steps: int = 18,
    grid: str = "uniform",
    min_t: float = 0.0,
    clip: bool = False,
    tile: int = 64,
) -> np.ndarray:
    """Draw samples [N,*shape] with a denoiser of yours, one per seed.

    Arguments:
        denoiser: `D(x[B,*D], sigma[B]) -> x0[B,*D]`, the mean of the clean x0 given x = x0 + sigma noise (Karras et
            al. 2022). With a schedule whose alpha is not 1 it is called with x_t/alpha and sigma/alpha.
        schedule: of `dj.schedules`, or a function t -> (log_alpha, log_sigma), with signal at t = 1, where sampling
            starts: not `rectified_flow`, `harmonic` or `polynomial`.
        sampler: of `dj.samplers`, or its name. num_steps: its steps, the last one to x0 included.
        grid: of the times: "uniform", "quadratic", "logsnr", "karras". min_t: time at which it ends.
        clip: clip x0 to [-1, 1] at every step. tile: samples per device and call.

    Raises ValueError for choices that do not suit each other, FloatingPointError for samples that are not finite.
    """
    path: Schedule = schedule._made if isinstance(schedule, Choice) else schedule
    if not np.isfinite(in_float64(path, np.ones(1))[0][0]):
        raise ValueError("schedule: has no signal at t = 1, where sigma/alpha is infinite. Use another schedule")
    process = GaussianProcess()
    choice = sampler if isinstance(sampler, Choice) else Choice("sampler", sampler, {})
    choices.choose("sampler", choice.name, SAMPLERS)
    method = starting(choice.make(draw=process.draw), path)

    def predict(x: Array, level: Level) -> Prediction:
        inverse = expand(jnp.exp(-level.log_alpha), x)
        x0 = denoiser(x * inverse, jnp.exp(level.log_sigma - level.log_alpha))
        x0 = jnp.clip(x0, -1, 1) if clip else x0
        eps = (x - expand(level.alpha, x) * x0) * expand(jnp.exp(-level.log_sigma), x)
        return Prediction(x0, eps, None)

    noisy = bool(np.isfinite(in_float64(path, np.array([min_t]))[1][0]))
    if num_steps < 1 + noisy:
        raise ValueError(f"num_steps={num_steps}: must be at least {1 + noisy}")
    made = choices.choose("grid", grid, grids.GRIDS)
    times = grids.make(made, num_steps - noisy, schedule=path, end=min_t)
    steps = loop.coefficients(process, path, times, denoise=noisy, method=method)
    kernel = reverse.fixed_large(process) if method.uses_kernel else None

    drawer = loop.Sampler(
        process=process,
        schedule=lambda params: path,
        denoiser=lambda params, x, level, label=None, keys=None: predict(x, level),
        reverse=kernel,
        method=method,
        coefficients=lambda params: steps,
        shape=tuple(shape),
    )
    each = np.asarray(list(seeds))
    if not each.size or not np.issubdtype(each.dtype, np.integer) or each.min() < 0 or each.max() >= 2**32:
        raise ValueError("seeds: must be whole numbers in 0 … 2^32 - 1, at least one")
    drawn: np.ndarray = devices.TiledMap(drawer.sample, tile, name="samples")(None, each.astype(np.uint32))
    if not np.isfinite(drawn).all():
        raise FloatingPointError("sample: samples are not finite; check the denoiser, the grid and num_steps")
    return drawn


# Parts of the above.


def spelling(made: Any) -> str:
    """Return "module:name" of a class or function."""
    return f"{getattr(made, '__module__', '?')}:{getattr(made, '__qualname__', type(made).__qualname__)}"


def _warmup_steps(train_steps: int, workdir: str | pathlib.Path | None) -> int:
    """Return the warm-up of the run in `workdir`, or a tenth of the steps."""
    if workdir is not None:
        with contextlib.suppress(FileNotFoundError):
            return int(trained.read_config(str(workdir)).optimizer.warmup_steps)
    return max(1, min(5000, train_steps // 10))


def _put_network(config: ConfigDict, network: nn.Module) -> None:
    """Name a network in a config. The network is a built-in one, one that can be imported, or the object itself."""
    if not isinstance(network, nn.Module):
        raise ValueError(f"network: expected a flax.linen module, such as MyNet(); got {type(network).__name__}")
    fields = {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.name not in ("parent", "name")
    }
    for name, factory in configs.choices()["network"].items():
        if type(network) is factory:
            config.network.name = name
            known = choices.signature_options(factory)
            config.network[name].update({key: value for key, value in fields.items() if key in known})
            return
    name = spelling(type(network))
    try:
        importable = choices.own("network", name) is type(network)
    except ValueError:
        importable = False
    changed = {field.name for field in dataclasses.fields(network) if not _at_default(network, field)} & set(fields)
    plain = [
        key
        for key, value in fields.items()
        if isinstance(value, bool | int | float | str | tuple) and key not in choices.PROVIDED
    ]
    if importable and changed <= set(plain):
        configs.put(config, "network.name", name)
        for key in plain:
            configs.put(config, f"network.options.{key}", fields[key])
    else:
        configs.put(config, "network.name", Instance(network, name + (choices.NOT_STORED if importable else "")))


def _at_default(network: nn.Module, field: dataclasses.Field[Any]) -> bool:
    """Return whether a field of a network has its default."""
    value = getattr(network, field.name)
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return bool(value == made or (isinstance(made, list) and value == tuple(made)))  # flax makes tuples of lists
    if isinstance(value, bool | int | float | str | tuple):
        return type(value) is type(field.default) and value == field.default
    return value is field.default


def _put_known(config: ConfigDict, key: str, value: Any) -> None:
    """Set a key that the config has. Raises ValueError with the nearest one for another."""
    known = dict(configs.flatten(config))
    if key not in known:
        configs.override(config, key, str(value), prefix="options")
    configs.put(config, key, value)


def _given(config: ConfigDict) -> dict[str, Instance]:
    """Return the objects that a config holds in place of names, by key."""
    return {key: value for key, value in configs.flatten(config) if isinstance(value, Instance)}


def _like_the_run(config: ConfigDict, source: Source, name: str) -> Source:
    """Return a source with the classes of a run. Raises ValueError for labels that the model cannot take or lacks."""
    classes = config.data.classes
    if classes and source.classes > classes:
        raise ValueError(
            f"{name}: has class {source.classes - 1}, but the model has {classes} classes, 0 … {classes - 1}"
        )
    if not source.classes and config.network.conditional and not config.network.label_dropout:
        raise ValueError(
            f"{name}: are missing, and the model is trained with labels alone (label_dropout=0). Pass them"
        )
    return source._replace(classes=classes)


def _sources(data: Any, labels: Any, levels: int | None, name: str) -> Source:
    """Return a Source of arrays. Raises ValueError for a dtype, range or shape that no model takes."""
    if isinstance(data, Source):
        return data
    x = np.asarray(data)
    if x.ndim < 2 or not len(x):
        raise ValueError(f"{name}: expected an array [N,*D] with N > 0, got shape {x.shape}")
    if x.ndim == 3:
        x = x[..., None]
    whole = np.issubdtype(x.dtype, np.integer)
    if not whole and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name}: expected uint8 or floats, got dtype {x.dtype}")
    levels = (256 if whole else 0) if levels is None else levels
    if whole and not levels:
        raise ValueError(f"{name}: the model takes floats, got dtype {x.dtype}")
    if not whole and levels:
        raise ValueError(
            f"{name}: the model takes grey levels 0 … {levels - 1}, got dtype {x.dtype}; pass an integer array"
        )
    if whole and (x.min() < 0 or x.max() >= levels):
        raise ValueError(f"{name}: expected grey levels 0 … {levels - 1}, got {x.min()} to {x.max()}; see levels=")
    if not whole and not np.isfinite(x).all():
        raise ValueError(f"{name}: {int((~np.isfinite(x)).sum())} values are not finite")
    if not whole and x.ndim == 4 and np.abs(x).max() > 1:
        raise ValueError(
            f"{name}: images of floats must lie in [-1, 1], got {x.min():g} to {x.max():g}; pass uint8, or rescale them"
        )
    y = None if labels is None else np.asarray(labels)
    if y is not None and (y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0):
        raise ValueError(f"{name}: labels must be integers >= 0 of shape ({len(x)},); got {y.dtype}, {y.shape}")
    classes = 0 if y is None else int(y.max()) + 1
    return from_arrays(name, x.astype(np.uint8 if whole else np.float32), y, levels, classes)


NAMESPACES = {"schedules": "schedule", "samplers": "sampler", "losses": "loss", "processes": "process"}


@functools.cache
def namespace(name: str) -> Any:
    """Return `dj.schedules`, `dj.samplers`, `dj.losses` or `dj.processes`."""
    return Namespace(NAMESPACES[name])

"""A trained model: load, sample and evaluate it."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import config as configs
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
from diffusion_jax.api.arrays import check_range, source_from_arrays, with_classes_of_run
from diffusion_jax.api.keys import check_arguments, put_existing, put_options_of_run
from diffusion_jax.api.namespaces import Choice, chosen_of
from diffusion_jax.data.source import Source
from diffusion_jax.experiment import choices, sources, wiring
from diffusion_jax.experiment.choices import Instance
from diffusion_jax.process.base import Array
from diffusion_jax.runs import metric_log, trained


class Run:
    """A trained model: config, weights, and functions to sample and evaluate it."""

    def __init__(self, inner: trained.Run) -> None:
        """Wrap a loaded run."""
        self._run = inner
        self._last_draw: tuple[ConfigDict, Callable[..., Any]] | None = None

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
            options: keys of the config in its sections sampler, guidance, bound and ode, such as {"sampler.grid":
                "logsnr"}; so in all functions of a run.

        Consecutive calls with equal choices compile once. Raises ValueError, and FloatingPointError for
        samples that are not finite.
        """
        run = self._changed(sampler, num_steps, guidance_scale, options)
        if self._last_draw is None or self._last_draw[0] != run.config:
            self._last_draw = run.config, trained.prepare_draw(run)
        samples: np.ndarray = self._last_draw[1](num_samples, seed, label)[1]
        return samples

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
        names: str | Sequence[str] = ("fid",),
        *,
        features: str = "pixels",
        num_samples: int = 0,
        seed: int = 0,
        heldout: bool = False,
        bootstrap: int = 100,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Compute sample-quality metrics by name: "fid", "kid", "is", "pr", "nn", "parzen".

        Arguments:
            features: feature network: "pixels", "digits", "grey28", "inception" or `module:function`. (The command line
                has "inception" by default.)
            num_samples: 0: as many as there are training examples, 10,000 for "parzen". Too few for the features are no
                error here; the result then has the entry `marked`.
            heldout: also the metrics of the held-out data, the reference of a perfect model.
            bootstrap: replicates of the bootstrap behind the 95 % intervals; 0: no intervals.
        """
        run = self._changed(None, None, None, options)
        chosen = sample_metrics.Options(num_samples, seed, ("few", "sizes"), bootstrap, heldout)
        listed = names.split(",") if isinstance(names, str) else list(names)
        return sample_metrics.prepare_metrics(run, listed, features, "", "", chosen)()

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

        The degradation is a task, or any linear operator A of y = A x0 + noise.

        Arguments:
            task: denoise, inpaint, colourise or superres.
            rule: constant, power, noise_aware or renoise.
            num_examples: held-out examples, where no data are given.
            noise: standard deviation, in the range of the model; None: 0.5 where nothing else is degraded, else 0.
            operator: identity, mask, blur, superres, grey, "module:function", or A, a function of one example in the
                range of the model.
            method: "rule" (the default of tasks), dps, pigdm or mmps (the default of operators).
            seed: of the first example, and of the mask "random".
            draws: number of draws for each observation, by methods other than "rule" or with an operator.
            repeats, length: repetitions of each group of steps, and its steps (RePaint), of tasks by the rule.
            y: observations [N,*M] in place of data.
            method_options: such as {"iterations": 5}.
            options: keys of the config, such as {"sampler.num_steps": 50}.
            task_options: of the task or operator: factor=2; mask="left", or an array of booleans [*D] or [H,W]; share.

        Returns arrays `degraded`, `restored`, `original` [N,*D], `mask`, and the figures `rmse`, `rmse_degraded`; of an
        operator those of `inverse_problems.solve`. Raises ValueError.
        """
        run = self._on(data, labels, options)
        number = num_examples if data is None else len(data)
        if operator and task != "inpaint":
            raise ValueError(f"task={task!r}: has no effect with operator. Leave one of the two out")
        if y is not None:
            if data is not None:
                raise ValueError("data: observations y take their place. Leave one of the two out")
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
            chosen = inverse_problems.make_operator(name, tuple(run.config.data.shape), seed, **task_options)
            std = inverse_problems.default_noise(name) if noise is None else noise
            arrays, figures = inverse_problems.solve(
                run, chosen, method or "mmps", number, seed, std, draws, rule, y, **(method_options or {})
            )
            return {**arrays, **figures}
        std = inverse_problems.default_noise(task) if noise is None else noise
        shape = tuple(run.config.data.shape)
        degradation = choices.make("--task", task, restoring.TASKS, task_options, shape=shape, seed=seed)
        arrays, figures = restoring.restore(run, degradation, rule, number, seed, std, repeats, length)
        return {**arrays, **figures}

    def compress(
        self, data: Any, file: str | pathlib.Path, labels: Any = None, *, num_steps: int = 0
    ) -> dict[str, Any]:
        """Compress examples [N,*D] into a file without loss.

        Returns the length of the code in bits/dim. num_steps: steps of the chain; 0: bound.num_steps. See `main
        compress` for the figures. Raises ValueError where the run has no Gaussian chain over grey levels, or the
        package `constriction` is missing.
        """
        run = self._on(data, labels, {"bound.num_steps": num_steps} if num_steps else None)
        return compression.compress(run, sources.source(run.config, "heldout"), file)

    def decompress(self, file: str | pathlib.Path) -> np.ndarray:
        """Return the examples [N,*D] of a file of `compress`.

        Raises ValueError for another or a damaged file, OSError where there is none.
        """
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
        detection.check_numbers(num_examples, num_steps)
        run = self._changed(None, None, None, {"bound.num_steps": num_steps})
        if isinstance(odd, str) and odd == detection.CLASSES:
            return detection.detect_classes(run, num_examples)[0]
        source = source_from_arrays(odd, None, run.config.data.levels, "odd")
        return detection.detect(run, source, num_examples)[0]

    def represent(
        self, *, num_examples: int = 2000, num_steps: int = 5, seed: int = 0, num_classified: int = 500
    ) -> dict[str, Any]:
        """Measure linear probes, clusters and, of a conditional run, a diffusion classifier.

        num_examples: of the training and of the held-out data, at most. num_steps: noise levels. seed: of folds,
        k-means and mixtures. num_classified: held-out examples for the classifier; 0: none. See
        docs/representations.md for the figures. Raises ValueError.
        """
        representation.check_numbers(num_examples, num_steps, num_classified)
        run = self._changed(None, None, None, {"bound.num_steps": num_steps})
        return representation.represent(run, num_examples, seed, num_classified)

    def features(self, data: Any, *, num_steps: int = 5) -> dict[tuple[str, float], np.ndarray]:
        """Return the features [N,F] of data [N,*D] by block of the network and noise level t."""
        needs_no_label("features", self._run)
        representation.check_numbers(num_steps=num_steps)
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
        if sampler is not None:
            chosen = chosen_of("sampler", sampler)
            if isinstance(chosen, Choice):
                chosen.put(config)
            else:
                configs.put(config, "sampler.name", chosen)
        if num_steps is not None:
            put_existing(config, "sampler.num_steps", num_steps, "num_steps")
            config.sampler.update(levels=(), times=())
        if guidance_scale is not None:
            config.guidance.name = "classifier_free"
            put_existing(config, "guidance.scale", guidance_scale, "guidance_scale")
        arguments = {"num_steps": num_steps, "guidance_scale": guidance_scale, "sampler": sampler}
        keys = {"num_steps": "sampler.num_steps", "guidance_scale": "guidance.scale", "sampler": "sampler.name"}
        given = {
            keys[name]: (name, getattr(value, "name", value)) for name, value in arguments.items() if value is not None
        }
        given |= dict.fromkeys(("sampler.times", "sampler.levels"), ("num_steps", ())) if num_steps is not None else {}
        check_arguments(options, given)
        put_options_of_run(config, options)
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
        if labels is not None and not (self.config.network.conditional or self.config.data.classes):
            raise ValueError("labels: the run has none, neither in its data nor in its network. Leave them out")
        source = source_from_arrays(data, labels, expected.levels if levels is None else levels, "data")
        source = with_classes_of_run(self.config, source, "labels")
        check_range(self.config, source, "data")
        if source.shape != tuple(expected.shape):
            raise ValueError(f"data: has shape {source.shape}; the model takes {tuple(expected.shape)}")
        return source

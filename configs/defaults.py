"""Every key of a config with its default: not a recipe, but what recipes start from and where keys are explained.

A choice is `section.name`; the options of each possible choice stand beside it under `section.<that name>`. What is
not listed for a choice keeps the default of its function. Any key can be set on the command line, --config.KEY=VALUE.
"""

from typing import Any

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The defaults: DDPM with eps-prediction and L_simple, on the embedded digits."""
    c = ConfigDict()
    c.seed = 0
    c.train_steps = 1000
    c.batch_size = 128  # examples of the global batch, whatever the number of devices
    c.accumulate_steps = 1  # parts in which each device works through its share of the batch
    c.parallel = "shard_map"  # or "pmap" (one process only), or "fsdp" (state in parts): the same numbers
    c.remat = False  # recompute blocks in the backward pass: less memory, more time
    c.require_accelerator = False  # refuse to run on a CPU

    c.data = ConfigDict()
    c.data.name = "digits"  # digits, toy2d, heartbeat, dead_leaves, arrays, folder, tfds
    c.data.flip = False  # random left-right flips, in training only
    c.data.workers = 0  # processes that read and decode data on disk
    # Filled in from the data when training starts. Give them to describe a model without having its data.
    c.data.shape = ()
    c.data.levels = 0  # grey levels: 256 for photographs, 17 for digits, 0 for float vectors
    c.data.classes = 0
    c.data.size = 0  # examples to train on
    c.data.mean = 0.0  # what the model sees is (x - mean) / std of x in [-1, 1]: the bound K is for unit variance
    c.data.std = 1.0
    c.data.dequantise = False  # and uniform noise as wide as a grey level, so that x has a density
    c.data.digits = ConfigDict()
    c.data.toy2d = ConfigDict({"kind": "mixture", "size": 20_000})  # mixture, checkerboard, moons, swissroll
    c.data.toy2d.update(seed=0, noise=0.3)  # noise of the swiss roll, in units of scikit-learn's
    c.data.heartbeat = ConfigDict({"size": 10_000})  # 20 bits, a one every five
    c.data.dead_leaves = ConfigDict({"shape": (32, 32), "radii": (2.0, 32.0), "size": 1_000_000, "seed": 0})
    c.data.arrays = ConfigDict({"path": "", "key": "", "label_key": "", "levels": 256, "classes": 0})
    c.data.arrays.update(heldout="", heldout_fraction=0.1)  # another file, or a share of this one
    c.data.folder = ConfigDict({"path": "", "size": (64, 64), "channels": 3, "labels": False, "in_memory": False})
    c.data.folder.update(resize="center_crop", filter="lanczos")  # none, center_crop, stretch
    c.data.folder.update(heldout="", heldout_fraction=0.1)  # another folder, or a share of this one
    c.data.tfds = ConfigDict({"dataset": "", "data_dir": "", "train": "train", "heldout": "test", "in_memory": False})
    c.data.tfds.update(image_key="image", label_key="label", size=(), channels=0, resize="none", filter="lanczos")

    c.process = ConfigDict({"name": "gaussian"})  # gaussian, binomial (data of two levels)
    c.process.binomial = ConfigDict({"rate": 0.5})  # of the bits of pure noise
    c.process.num_steps = 1000  # T of a chain with times k/T; 0 is continuous time

    c.schedule = ConfigDict()
    c.schedule.name = "linear"  # linear, quad, const, warmup, harmonic, dpm2015, sigmoid, cosine (chains)
    # geometric (a chain of levels of noise, alpha = 1, NCSN)
    # or, in closed form: vp, subvp, linear_logsnr, ve, edm
    # or with parameters, for loss.name=K, vlb or vdm: learned_betas (of a chain), learned_gamma, learned_gamma_net
    c.schedule.dpm2015 = ConfigDict({"first_beta": 1e-3})
    c.schedule.learned_betas = ConfigDict(
        {"first_beta": 1e-3, "bumps": 0}
    )  # 0: a free rate for each step but the first
    c.schedule.learned_gamma = ConfigDict({"gamma_min": -13.3, "gamma_max": 5.0})  # where they start
    c.schedule.learned_gamma_net = ConfigDict({"gamma_min": -13.3, "gamma_max": 5.0})
    c.schedule.linear = ConfigDict({"beta_start": 1e-4, "beta_end": 0.02})
    c.schedule.quad = ConfigDict({"beta_start": 1e-4, "beta_end": 0.02})
    c.schedule.const = ConfigDict({"beta_end": 0.02})
    c.schedule.warmup = ConfigDict({"beta_start": 1e-4, "beta_end": 0.02, "fraction": 0.1})
    c.schedule.sigmoid = ConfigDict({"beta_start": 1e-4, "beta_end": 0.02})
    c.schedule.cosine = ConfigDict({"offset": 0.008, "max_beta": 0.999})
    c.schedule.geometric = ConfigDict({"sigma_min": 0.01, "sigma_max": 50.0})  # at the first level and the last
    c.schedule.vp = ConfigDict({"beta_min": 0.1, "beta_max": 20.0})
    c.schedule.subvp = ConfigDict({"beta_min": 0.1, "beta_max": 20.0})
    c.schedule.linear_logsnr = ConfigDict({"gamma_min": -13.3, "gamma_max": 5.0})  # of log(sigma²/alpha²)
    c.schedule.ve = ConfigDict({"sigma_min": 0.01, "sigma_max": 50.0})
    c.schedule.edm = ConfigDict({"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0})

    c.network = ConfigDict()
    c.network.name = "unet"  # unet, ncsnpp (NCSN++ and DDPM++), ncsn, ncsnv2 (both of a chain), vdm, mlp;
    # of 2015: rbf, sequence_mlp, multiscale; encoder, with loss.name=cross_entropy
    c.network.conditional = False  # tell the network the class label
    c.network.label_dropout = 0.0  # share of the examples whose label it is not told, for classifier-free guidance
    c.network.told = "step"  # what it is told about time: step (k - 1), time (999 t), logsnr, log_sigma
    c.network.unet = ConfigDict()
    c.network.unet.channels = 128
    c.network.unet.multipliers = (1, 2, 2, 2)  # of the channels, one per resolution
    c.network.unet.blocks = 2  # residual blocks per resolution
    c.network.unet.attention = (16,)  # heights at which self-attention follows each block
    c.network.unet.heads = 1
    c.network.unet.groups = 0  # of GroupNorm; 0: 32, fewer where a group would hold less than 4 channels
    c.network.unet.dropout = 0.0
    c.network.unet.fourier = ()  # exponents n of features sin, cos(2^n 2pi x) given to the network beside x
    c.network.unet.dtype = "float32"  # or bfloat16: compute only, parameters stay float32
    c.network.encoder = ConfigDict(
        {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention": (), "dropout": 0.0}
    )
    c.network.ncsnpp = ConfigDict({"channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 4, "attention": (16,)})
    c.network.ncsnpp.update(dropout=0.0, dtype="float32", augment_dims=0)  # room for a label of the augmentation
    c.network.ncsnpp.embedding = "positional"  # of time: positional (DDPM++), fourier (NCSN++)
    c.network.ncsnpp.fourier_scale = 16.0
    c.network.ncsnpp.taps = (1, 1)  # of the filter that resamples; NCSN++ has (1, 3, 3, 1)
    c.network.ncsnpp.progressive_input = False  # show the noisy image to every level on the way down (NCSN++)
    c.network.ncsn = ConfigDict({"channels": 128, "multipliers": (1, 2, 2, 2), "dtype": "float32"})
    c.network.ncsn.dilations = (1, 1, 2, 4)  # one per stage; a stage after the first with 1 halves the height
    c.network.ncsnv2 = ConfigDict(c.network.ncsn.to_dict())
    c.network.vdm = ConfigDict({"channels": 128, "blocks": 32, "fourier": (6, 7), "dropout": 0.0, "dtype": "float32"})
    c.network.rbf = ConfigDict({"units": 16, "bumps": 0, "dtype": "float32"})  # bumps in time; 0: own weights per step
    c.network.sequence_mlp = ConfigDict({"width": 50, "depth": 3, "bumps": 0, "dtype": "float32"})
    c.network.multiscale = ConfigDict({"conv_layers": 6, "features": 100, "scales": 3, "bumps": 10, "dtype": "float32"})
    c.network.multiscale.update(dense_layers=2, dense_width=1000, dense_features=5)  # 0 layers: none
    c.network.multiscale.update(upper_layers=4, upper_features=100)
    c.network.mlp = ConfigDict({"width": 128, "depth": 3, "dropout": 0.0, "dtype": "float32"})

    c.prediction = ConfigDict()
    c.prediction.target = (
        "eps"  # eps, x0, v, score, posterior_mean, edm (F of Karras et al. 2022),
        # dpm2015_paper, dpm2015_code
    )
    c.prediction.input = "as_it_is"  # or unit_variance: what the network sees is divided by its standard deviation
    c.prediction.sigma_data = 0.5  # standard deviation of the data in [-1, 1], for edm and unit_variance
    c.prediction.variance = "fixed_large"  # fixed_small, fixed_large
    # or with a bound loss: learned_diagonal, learned_range, dpm2015_paper, dpm2015_code

    # simple, snr, truncated_snr, min_snr, p2, edm, likelihood (g²): squared errors; vlb, hybrid, vdm, K: the bound
    # or cross_entropy: no diffusion model but a classifier of noisy examples, which can guide one
    c.loss = ConfigDict({"name": "simple"})
    c.loss.reduction = "mean"  # of squared errors over the dimensions; sum (EDM), half_sum (NCSN)
    c.loss.min_snr = ConfigDict({"gamma": 5.0})
    c.loss.p2 = ConfigDict({"k": 1.0, "gamma": 1.0})
    c.loss.hybrid = ConfigDict({"factor": 0.001})  # simple + factor * the bound, which trains the variance alone

    # uniform, low_discrepancy (over the global batch), importance; log_normal (of sigma, EDM)
    c.times = ConfigDict({"name": "uniform"})
    c.times.min_t = 0.0  # smallest time in continuous training
    c.times.importance = ConfigDict({"window": 10, "uniform_share": 0.001})  # losses remembered per step of the chain
    c.times.log_normal = ConfigDict({"mean": -1.2, "std": 1.2})  # of ln(sigma/alpha)

    c.bound = ConfigDict()
    c.bound.decoder = "bins"  # bins, bins_tanh (Ho's approximation), softmax; density for data without grey levels
    c.bound.clip_x0 = True  # clip the predicted x0 to [-1, 1] in the bound that evaluate reports, likewise
    c.bound.num_steps = 0  # 0: all steps of the chain; fewer: the bound of the shorter chain

    c.bound.num_examples = 0  # held-out examples, the first ones, that every likelihood looks at; 0: eval.max_examples
    c.bound.paths = (1, 4, 16)  # numbers of whole paths in the bound `multi`; each divides the next

    c.ode = ConfigDict()  # the likelihood by the probability-flow ODE, and `main encode`
    c.ode.rtol = 1e-5  # errors per step, of x of variance 1 and of log p in nats/dim
    c.ode.atol = 1e-5
    c.ode.max_calls = 10_000
    c.ode.min_t = 0.0  # where it ends; 0: the lowest level with noise, of a chain 1/T, or else 1e-5
    c.ode.trace = "rademacher"  # or gaussian: random probes; exact: one product per dimension, for small data
    c.ode.probes = 1  # of each example; more of them than one tell their own error
    c.ode.dequantisation = "uniform"  # noise over the bin; process: the noise of min_t; none, for real numbers
    c.ode.law = "prior"  # of x at t = 1: N(0, alpha² + sigma²), as samplers draw it; noise: N(0, sigma²)

    c.optimizer = ConfigDict()
    c.optimizer.learning_rate = 2e-4
    c.optimizer.warmup_steps = 5000  # linear from 0
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.999
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.0  # > 0 is AdamW
    c.optimizer.grad_clip = 1.0  # global norm of the averaged gradient; 0 is off

    c.ema = ConfigDict()
    c.ema.decays = (0.9999,)  # several are allowed; the first is the one used unless --ema says otherwise
    c.ema.ramp = 0.0  # > 0: half-life at most ramp times the steps taken (EDM uses 0.05)

    c.sampler = ConfigDict()
    c.sampler.name = "ancestral"  # with noise: ancestral, ddim (eta > 0), euler_maruyama, reverse_diffusion,
    # predictor_corrector, annealed_langevin, dpmpp_2m_sde, edm (churn > 0); without: ddim, ode_euler, ode_heun, edm,
    # dpmpp_1s, dpmpp_2m, dpmpp_3m, unipc, and dopri5, which chooses its steps itself, from t = 1 to the lowest level
    c.sampler.ddim = ConfigDict({"eta": 0.0})
    c.sampler.predictor_corrector = ConfigDict({"predictor": "reverse_diffusion", "snr": 0.16, "steps": 1})
    c.sampler.predictor_corrector.norms = "example"  # or expected
    c.sampler.annealed_langevin = ConfigDict({"snr": 0.05**0.5, "steps": 100, "norms": "expected", "at_start": False})
    c.sampler.edm = ConfigDict({"churn": 0.0, "s_min": 0.0, "s_max": 1e9, "s_noise": 1.0})
    c.sampler.dpmpp_3m = ConfigDict({"second_difference": "whole"})  # half: as the public codes have it
    c.sampler.dpmpp_2m_sde = ConfigDict({"eta": 1.0})
    c.sampler.unipc = ConfigDict({"order": 2})
    c.sampler.dopri5 = ConfigDict(
        {"rtol": 1e-5, "atol": 1e-5, "max_calls": 1000}
    )  # errors per step, of x of variance 1
    c.sampler.num_steps = 0  # 0: all steps of the chain
    c.sampler.grid = "uniform"  # uniform (in t), quadratic, logsnr, karras; of a chain also inclusive (levels T to 1),
    # strided (every n-th), to_first (all but the last step). logsnr, quadratic, karras go between levels.
    c.sampler.karras = ConfigDict({"rho": 7.0})
    c.sampler.steps = ()  # or the levels k of the chain by name, such as (1000, 500, 100, 1), instead of num_steps
    c.sampler.times = ()  # or the times one by one, such as (1.0, 0.5, 0.0)
    c.sampler.min_t = 0.0  # where the grid ends in continuous time; logsnr and karras need some noise there
    c.sampler.clip_x0 = True  # clip the predicted x0 to [-1, 1] at every step (never with posterior_mean)
    c.sampler.denoise = True  # end at the predicted x0 where the schedule's last level still has noise
    c.sampler.tile = 64  # samples per device and call: a fixed shape, so that no sample depends on how many are asked

    c.guidance = ConfigDict({"name": "none"})  # none, classifier_free, classifier, autoguidance
    c.guidance.scale = 1.0  # w of out = weak + w (strong - weak): uncond and cond, or a worse model and this one
    # 1: the class as the network is told it, or this model; 0: no class, or the worse model; classifier: the factor
    c.guidance.interval_t = (0.0, 1.0)  # of t, in which it acts
    c.guidance.rescale = 0.0  # share in which x0 keeps the standard deviation it has without guidance (not: classifier)
    c.guidance.classifier = ConfigDict({"workdir": "", "step": "best", "ema": ""})  # a run with loss.name=cross_entropy
    c.guidance.autoguidance = ConfigDict({"workdir": "", "step": "newest", "ema": ""})  # of a worse model; "": this run

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 10_000  # steps
    c.checkpoint.keep = 2  # the newest ones
    c.checkpoint.keep_every = 0  # and one every so many steps for good (0: none)
    c.checkpoint.best = "heldout_loss"  # what --step=best is best by: this, or a figure of eval.quality_metrics

    c.guard = ConfigDict()  # against divergence; an update that is not finite is left out in any case
    c.guard.most_skipped = 100  # such updates in a row that end a run
    c.guard.rollbacks = (
        0  # or, so many times, send it back to the checkpoint before them, with the data in another order
    )

    c.report = ConfigDict()
    c.report.every = 100  # steps between lines of metrics
    c.report.samples_every = 10_000  # steps between sample grids; there are early ones as well (0: none)
    c.report.num_samples = 64
    c.report.sampler_steps = 0  # steps for these grids, where fewer will do (0: as sampler.num_steps)
    c.report.tensorboard = True  # where TensorFlow is installed

    c.eval = ConfigDict()
    c.eval.every = 10_000  # steps between held-out losses (0: never)
    c.eval.max_examples = 10_000
    c.eval.passes = 1  # times the held-out set is gone through, with other times and noise
    c.eval.num_samples = 1000  # samples that `main evaluate` draws
    c.eval.quality_every = 0  # steps between figures of a few samples, drawn in report.sampler_steps steps (0: never)
    c.eval.quality_samples = 500
    c.eval.quality_metrics = ("fid", "pr")  # fid, kid, is, pr, nn: see main evaluate --metrics
    c.eval.features = "pixels"  # of these figures: pixels, digits, inception, or module:function of yours
    c.eval.svm = False  # judge samples by an SVM fitted on the labelled training data: for small sets such as digits
    return c


def variant(config: ConfigDict, name: str, **others: dict[str, Any]) -> ConfigDict:
    """`config` itself for "", or shrunk for "tiny" so that a test can run it: 8x8 images, T = 4, two training steps.

    others: the further variants of a recipe, each the keys that it changes, as {"network.ncsnpp.blocks": 8}.
    """
    if name not in ("", "tiny", *others):
        known = "".join(f" :{other}," for other in others)
        raise ValueError(f"config variant {name!r} is not known; use none,{known} or :tiny")
    config.update_from_flattened_dict(others.get(name, {}))
    if name == "tiny":
        continuous = not config.process.num_steps
        # One level: a test of a recipe is of what surrounds the network, and pays for compiling it.
        config.network.unet.update(channels=8, multipliers=(1,), blocks=1, attention=())
        config.network.encoder.update(channels=8, multipliers=(1,), blocks=1, attention=())
        config.network.mlp.update(width=16, depth=1)
        config.network.ncsnpp.update(channels=8, multipliers=(1,), blocks=1, attention=())
        config.network.vdm.update(channels=8, blocks=1)
        config.network.ncsn.update(channels=8, multipliers=(1,), dilations=(1,))
        config.network.ncsnv2.update(config.network.ncsn)
        config.sampler.annealed_langevin.steps = 2
        config.process.num_steps = 0 if continuous else 4
        config.sampler.update(num_steps=4 if continuous else 0, times=(), tile=4)
        config.network.multiscale.update(conv_layers=1, features=8, scales=2, dense_width=8, upper_features=8, bumps=2)
        config.data.dead_leaves.update(shape=(8, 8), radii=(1.0, 8.0), size=64)
        config.data.heartbeat.size = 64
        config.data.toy2d.size = 64
        config.data.folder.size = (8, 8)
        config.data.tfds.update(size=(8, 8), resize="center_crop")
        config.data.shape = (8, 8, config.data.shape[-1]) if config.data.shape else ()
        config.update(train_steps=2, batch_size=8)
        config.optimizer.warmup_steps = 1
        config.checkpoint.every = config.report.every = 1
        config.report.update(
            samples_every=0 if config.loss.name == "cross_entropy" else 2, num_samples=4, sampler_steps=0
        )
        config.eval.update(every=2, max_examples=16, num_samples=8, passes=1)
    return config

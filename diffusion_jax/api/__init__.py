"""Python interface: define, train, sample and evaluate a model.

    import diffusion_jax as dj

    model = dj.Model(MyNet(), schedule=dj.schedules.cosine(num_steps=1000), target="v")
    run = dj.train(model, images, train_steps=5000, batch_size=128, seed=0)
    x = run.sample(64, sampler=dj.samplers.dpmpp_2m(), num_steps=20, seed=0)
    run = dj.load("runs/digits")                                   # a run trained by the command line

Everything here goes through the same configs, training loop and files as the command line.
"""

from diffusion_jax.api.loading import load
from diffusion_jax.api.model import Model
from diffusion_jax.api.namespaces import NAMESPACES, Choice, namespace
from diffusion_jax.api.own_denoiser import sample
from diffusion_jax.api.run import Run
from diffusion_jax.api.training import train
from diffusion_jax.progress import show as show_progress
from diffusion_jax.training.loop import Diverged

__all__ = ["NAMESPACES", "Choice", "Diverged", "Model", "Run", "load", "namespace", "sample", "show_progress", "train"]

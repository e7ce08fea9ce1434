"""Built-in networks by name."""

from collections.abc import Callable

import flax.linen as nn

from diffusion_jax.networks.autoencoder import VAE
from diffusion_jax.networks.dit import DiT
from diffusion_jax.networks.encoder import Encoder
from diffusion_jax.networks.gan import GAN
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.multiscale import MultiScale
from diffusion_jax.networks.ncsn import NCSN, NCSNv2
from diffusion_jax.networks.ncsnpp import NCSNpp
from diffusion_jax.networks.rbf import RBF
from diffusion_jax.networks.sequence_mlp import SequenceMLP
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import VDMUNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "ncsnpp": NCSNpp,
    "ncsn": NCSN,
    "ncsnv2": NCSNv2,
    "vdm": VDMUNet,
    "dit": DiT,
    "mlp": MLP,
    "rbf": RBF,
    "sequence_mlp": SequenceMLP,
    "multiscale": MultiScale,
    "encoder": Encoder,
    "vae": VAE,
    "gan": GAN,
}
"""Network factories. A network has a field `num_classes` if it takes labels, `remat` if it can recompute its blocks in
the backward pass, `num_steps` if it has parameters for each step of the chain, and `data_shape` if it depends on the
shape of an example; these and `out_channels` come from the rest of the config. Its other fields are options with their
defaults."""

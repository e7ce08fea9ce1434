"""Built-in samplers by name."""

from collections.abc import Callable

from diffusion_jax.sampling import churn, ddpm, direct, exponential, flow, langevin, ode_steps, sde_steps
from diffusion_jax.sampling.base import SamplerStep

SAMPLERS: dict[str, Callable[..., SamplerStep]] = {
    "ancestral": ddpm.ancestral,
    "ddim": ddpm.ddim,
    "euler_maruyama": sde_steps.euler_maruyama,
    "reverse_diffusion": sde_steps.reverse_diffusion,
    "predictor_corrector": langevin.predictor_corrector,
    "annealed_langevin": langevin.annealed_langevin,
    "ode_euler": ode_steps.ode_euler,
    "ode_heun": ode_steps.ode_heun,
    "mean_flow": ode_steps.mean_flow,
    "edm": churn.edm,
    "dpmpp_1s": exponential.dpmpp_1s,
    "dpmpp_2m": exponential.dpmpp_2m,
    "dpmpp_3m": exponential.dpmpp_3m,
    "dpmpp_2m_sde": exponential.dpmpp_2m_sde,
    "unipc": exponential.unipc,
    "dopri5": flow.dopri5,
    "direct": direct.direct,
}
"""Factories of sampler steps. Their arguments are the options of the sampler; `draw`, the `draw` of the process, comes
from the rest of the config."""

"""Built-in samplers by name."""

from collections.abc import Callable

from diffusion_jax.sampling import (
    ancestral,
    ddim,
    edm,
    exponential,
    flow,
    langevin,
    probability_flow,
    sde,
    unipc,
)
from diffusion_jax.sampling.loop import Method

SAMPLERS: dict[str, Callable[..., Method]] = {
    "ancestral": ancestral.ancestral,
    "ddim": ddim.ddim,
    "euler_maruyama": sde.euler_maruyama,
    "reverse_diffusion": sde.reverse_diffusion,
    "predictor_corrector": langevin.predictor_corrector,
    "annealed_langevin": langevin.annealed_langevin,
    "ode_euler": probability_flow.ode_euler,
    "ode_heun": probability_flow.ode_heun,
    "edm": edm.edm,
    "dpmpp_1s": exponential.dpmpp_1s,
    "dpmpp_2m": exponential.dpmpp_2m,
    "dpmpp_3m": exponential.dpmpp_3m,
    "dpmpp_2m_sde": exponential.dpmpp_2m_sde,
    "unipc": unipc.unipc,
    "dopri5": flow.dopri5,
}
"""Factories of sampler steps. Their arguments are the options of the sampler; `draw`, the `draw` of the process, comes
from the rest of the config."""

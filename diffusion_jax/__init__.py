"""Diffusion models in JAX: a process destroys the data, a network predicts what was destroyed, a sampler walks back.

Nothing is imported here, so that `import diffusion_jax` is immediate; import the room you need, for example
`from diffusion_jax.process import schedules`. README.md has a map of the rooms.
"""

__version__ = "0.1.0"

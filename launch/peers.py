"""PyTorch side of compare_peers.py: a process that runs one kind of work on request.

    python launch/peers.py '{"peer": "diffusers", "work": "train", "mode": "eager", …}'

It imports PyTorch, diffusers and denoising-diffusion-pytorch alone, from an environment of their own. For the protocol
see `serve` of compare_peers.py, which this file repeats because the two sides share no environment.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Run = Callable[[int], None]
"""Function that runs the work that many times and returns when all of it is done."""


def diffusers_unet(o: dict[str, Any]) -> torch.nn.Module:
    """Return the U-Net of Ho et al. in diffusers; all norms have `groups` groups, where ours may have more."""
    from diffusers import UNet2DModel

    levels = len(o["multipliers"])
    with_attention = [o["size"] >> i in o["attention"] for i in range(levels)]
    return UNet2DModel(
        sample_size=o["size"],
        in_channels=o["in_channels"],
        out_channels=o["in_channels"],
        block_out_channels=[o["channels"] * m for m in o["multipliers"]],
        layers_per_block=o["blocks"],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in with_attention],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(with_attention)],
        attention_head_dim=None,
        dropout=o["dropout"],
        norm_num_groups=o["groups"],
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


def lucidrains_unet(o: dict[str, Any]) -> torch.nn.Module:
    """Return the nearest network of denoising-diffusion-pytorch: full attention at the same sizes, linear elsewhere."""
    from denoising_diffusion_pytorch import Unet

    full = tuple(o["size"] >> i in o["attention"] for i in range(len(o["multipliers"])))
    return Unet(
        dim=o["channels"], dim_mults=tuple(o["multipliers"]), channels=o["in_channels"], dropout=o["dropout"],
        full_attn=full, flash_attn=o["device"] == "cuda",
    )  # fmt: skip


NETWORKS = {"diffusers": diffusers_unet, "denoising-diffusion-pytorch": lucidrains_unet}


def build(o: dict[str, Any]) -> tuple[torch.nn.Module, Callable[..., torch.Tensor]]:
    """Return the network and `eps(x, t)`: channels last, compiled in mode compile, with autocast for bfloat16."""
    net = NETWORKS[o["peer"]](o).to(o["device"], memory_format=torch.channels_last)
    called = torch.compile(net) if o["mode"] == "compile" else net

    def eps(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with torch.autocast(o["device"], torch.bfloat16, enabled=o["dtype"] == "bfloat16"):
            out = called(x, t)
        return (out if isinstance(out, torch.Tensor) else out.sample).float()

    return net, eps


def images(o: dict[str, Any]) -> torch.Tensor:
    """Return noise in the shape of a batch."""
    shape = (o["batch"], o["in_channels"], o["size"], o["size"])
    return torch.randn(shape, device=o["device"]).to(memory_format=torch.channels_last)


def train(o: dict[str, Any]) -> tuple[Run, torch.nn.Module]:
    """Return steps of DDPM training: uniform t, L_simple, Adam, clipping by the global norm, one moving average."""
    net, eps = build(o)
    params = [p for p in net.parameters() if p.requires_grad]
    ema = [p.detach().clone() for p in params]
    optimizer = torch.optim.Adam(params, lr=2e-4, fused=True)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=o["device"]), 0)
    x0 = images(o)
    net.train()

    def step() -> None:
        t = torch.randint(0, 1000, (o["batch"],), device=o["device"])
        noise = torch.randn_like(x0)
        a = alpha_bar[t][:, None, None, None]
        loss = F.mse_loss(eps(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, params, 1e-4)

    return repeat(step, o), net


def call(o: dict[str, Any]) -> tuple[Run, torch.nn.Module]:
    """Return calls of the network without gradients."""
    net, eps = build(o)
    x, t = images(o), torch.full((o["batch"],), 500, device=o["device"])
    net.eval()
    return repeat(torch.no_grad()(lambda: eps(x, t)), o), net


def sample(o: dict[str, Any]) -> tuple[Run, torch.nn.Module]:
    """Return ancestral sampling of a batch to the host: DDPMPipeline, or its loop with the compiled network."""
    from diffusers import DDPMPipeline, DDPMScheduler

    net, eps = build(o)
    net.eval()
    scheduler = DDPMScheduler(num_train_timesteps=1000, variance_type="fixed_large")
    if o["mode"] == "eager":
        pipeline = DDPMPipeline(unet=net, scheduler=scheduler).to(o["device"], getattr(torch, o["dtype"]))
        pipeline.set_progress_bar_config(disable=True)
        return repeat(lambda: pipeline(o["batch"], num_inference_steps=o["steps"], output_type="np"), o), net

    @torch.no_grad()
    def walk() -> None:
        x = images(o)
        scheduler.set_timesteps(o["steps"])
        for t in scheduler.timesteps:
            x = scheduler.step(eps(x, torch.full((o["batch"],), int(t), device=o["device"])), t, x).prev_sample
        x.cpu()

    return repeat(walk, o), net


def repeat(work: Callable[[], Any], o: dict[str, Any]) -> Run:
    """Return a function that repeats `work` and waits for all of it."""

    def run(times: int) -> None:
        for _ in range(times):
            work()
        if o["device"] == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Compile the work, print a line, then run it for each line with a number, and print the seconds."""
    o = json.loads(sys.argv[1])
    torch.set_num_threads(o["threads"])
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    started = time.perf_counter()
    run, net = {"train": train, "call": call, "sample": sample}[o["work"]](o)
    if o["work"] != "sample":
        run(o["warmup"])
    ready = {"parameters": sum(p.numel() for p in net.parameters()), "first": time.perf_counter() - started}
    print(json.dumps({**ready, "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if o["device"] == "cuda" else None
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()

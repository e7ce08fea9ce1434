"""Speed of the same work here and in PyTorch, timed in alternation; launch/compare_peers.sh runs it.

    python launch/compare_peers.py --peers_python=.venv-peers/bin/python [--cases=train,call] [--peers=diffusers:eager]

Work, on both sides: `train`, steps of DDPM training (uniform t, L_simple, Adam, clipping by the global norm, one moving
average) on a batch that is on the device already; `call`, calls of the network; `sample`, ancestral sampling in 1,000
steps; `whole`, the same as a process, from its start to its end, with whatever was compiled before in the cache.

Each side is a process that compiles its work once and then runs it on request. One process is idle while the other
works; where the memory of a GPU holds only one of them (`train256`), the first ends before the second starts. A ratio
is images/s of this side divided by images/s of the peer: above 1, this side is faster. The output has the median of
--repeats ratios with the least and the greatest. Where a case has several batches, each side uses its fastest;
--batches names others.
"""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs/

from diffusion_jax.cli import environment

Options = dict[str, Any]
HERE = pathlib.Path(__file__).parent
CIFAR, LSUN, DIGITS, FASHION = "cifar10_ddpm", "lsun_church256", "digits", "fashion_ddpm"
CASES: dict[str, dict[str, Options]] = {
    "cpu": {
        "train": {"work": "train", "recipe": CIFAR, "batches": [8], "dtype": "float32", "times": 2},
        "train28": {"work": "train", "recipe": FASHION, "batches": [32], "dtype": "float32", "times": 10},
        "call": {"work": "call", "recipe": CIFAR, "batches": [8], "dtype": "float32", "times": 5},
        "call_digits": {"work": "call", "recipe": DIGITS, "batches": [64], "dtype": "float32", "times": 100},
        "sample": {"work": "sample", "recipe": DIGITS, "batches": [64], "dtype": "float32", "times": 1, "whole": True},
    },
    "gpu": {
        "train": {"work": "train", "recipe": CIFAR, "batches": [256, 512], "dtype": "bfloat16", "times": 20},
        "train256": {
            "work": "train", "recipe": LSUN, "batches": [32, 64], "dtype": "bfloat16", "times": 4, "apart": True,
        },
        "sample": {"work": "sample", "recipe": CIFAR, "batches": [256], "dtype": "bfloat16", "times": 1},
    },
}  # fmt: skip
PEERS = ("diffusers:eager", "diffusers:compile", "denoising-diffusion-pytorch:eager")


# This side.


def recipe(o: Options) -> Any:
    """Return the config of a case. With o["data"] (shape, levels, classes) no data are read."""
    from diffusion_jax.experiment import sources

    name, _, variant = o["recipe"].partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    config.batch_size = o["batch"]
    config.network.unet.dtype = o["dtype"]
    config.sampler.tile, rest = divmod(o["batch"], o["devices"])
    if rest:
        raise ValueError(f"a batch of {o['batch']} cannot be divided by {o['devices']} devices")
    known = o.get("data", config.data)
    config.data.update(shape=tuple(known["shape"]), levels=known["levels"], classes=known["classes"])
    return config if config.data.shape else sources.resolve(config, sources.source(config, "train"))


def ours(o: Options) -> tuple[Callable[[int], None], int]:
    """Return the work of a case, a function of the number of repetitions, and the number of parameters."""
    import jax
    import numpy as np

    from diffusion_jax import devices
    from diffusion_jax.analysis import timing
    from diffusion_jax.analysis.description import count
    from diffusion_jax.experiment import wiring
    from diffusion_jax.training import setup

    config = recipe(o)
    experiment = wiring.build(config)
    if o["work"] == "train":
        shapes, key = setup.state_shapes(config, experiment), setup.train_key(config)
        step = setup.training_step(config, experiment, shapes)
        held = [setup.initial_state(config, experiment, shapes)]
        images = np.random.default_rng(0).integers(0, config.data.levels, (o["batch"], *config.data.shape), np.uint8)
        index = np.arange(o["batch"], dtype=np.int32)
        batch = devices.put_local_rows({"x0": images, "label": np.zeros_like(index), "index": index})

        def train() -> None:
            held[0], _ = step(held[0], batch, key)

        return finished(train, lambda: held[0]), count(shapes.params)

    params = wiring.init(config, experiment.network, jax.random.key(config.seed))
    number = count(params)
    params = devices.replicate(params)
    result: list[Any] = [None]
    if o["work"] == "call":
        call, inputs = timing.network_call(config, experiment)
    else:
        call = devices.map_over_devices(experiment.sampler.sample, replicated=1)
        inputs = (np.arange(o["batch"], dtype=np.uint32),)

    def again() -> None:
        result[0] = call(params, *inputs)

    return finished(again, lambda: result[0], fetched=o["work"] == "sample"), number


def finished(work: Callable[[], None], result: Callable[[], Any], fetched: bool = False) -> Callable[[int], None]:
    """Return a function that repeats `work` and waits for the last result; fetched: until the result is on the host."""
    import jax

    def run(times: int) -> None:
        for _ in range(times):
            work()
        jax.device_get(result()) if fetched else jax.block_until_ready(result())

    return run


def serve(o: Options) -> None:
    """Compile the work, print a line, then run it for each line with a number, and print the seconds."""
    import jax

    started = time.perf_counter()
    if jax.default_backend() != o["on"]:
        raise SystemExit(f"JAX sees no {o['on']}, only {jax.default_backend()}")
    run, parameters = ours(o)
    if not o["whole"]:
        run(1 if o["work"] == "sample" else 2)
    ready = {"parameters": parameters, "first": time.perf_counter() - started}
    print(json.dumps({**ready, "version": f"jax {jax.__version__}"}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - started
        stats = jax.devices()[0].memory_stats() or {}
        print(json.dumps({"seconds": seconds, "peak_bytes": stats.get("peak_bytes_in_use")}), flush=True)


# Both sides.


class Side:
    """Process of one side, which runs its work on request."""

    def __init__(self, command: list[str], options: Options) -> None:
        gpu = options["on"] == "gpu"  # one GPU, and all of its memory to whoever asks for it
        environment = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".95"}
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = str(options["apart"]).lower()
        environment["JAX_PLATFORMS"] = "cuda,cpu" if gpu else "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if gpu else ""
        if options["devices"] > 1:
            environment["JAX_NUM_CPU_DEVICES"] = str(options["devices"])
        self.command, self.on = command, options["on"]
        self.process = subprocess.Popen(
            [*command, json.dumps(options)], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.ready = self._answer()

    def _answer(self) -> Options:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"{"):
                return json.loads(line)
        self.close()
        raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.returncode}")

    def warm_run(self, times: int, first: bool) -> Options:
        """Run once without timing (the first time; on a CPU always, as idleness costs the caches), then `run`."""
        if first or self.on == "cpu":
            self.run(1)
        return self.run(times)

    def run(self, times: int) -> Options:
        """Run the work `times` times; return {"seconds", "peak_bytes"}."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, as its answer will say
            self.process.stdin.write(f"{times}\n".encode())
        return self._answer()

    def close(self) -> None:
        """Close the pipes and wait for the process to end."""
        with self.process:
            pass


def whole(command: list[str], options: Options) -> tuple[float, Options]:
    """Return the seconds of a whole process that runs the work once, and its first answer."""
    started = time.perf_counter()
    side = Side(command, options)
    side.run(1)
    side.close()
    return time.perf_counter() - started, side.ready


def compare(ours: list[str], theirs: list[str] | None, mine: Options, other: Options, repeats: int) -> Options:
    """Time both sides in alternation; return seconds per run, ratios, parameters, memory and versions.

    Without `theirs` this side is timed alone.
    """
    times, seconds = mine["times"], []
    if theirs is None:
        side = Side(ours, mine)
        rows = [side.warm_run(times, first=repeat == 0) for repeat in range(repeats)]
        side.close()
        return {
            "ours_seconds": median([row["seconds"] / times for row in rows]),
            "peer_seconds": None,
            "ratios": [],
            "batches": [mine["batch"]],
            "parameters": [side.ready["parameters"]],
            "ready_seconds": [side.ready["first"]],
            "peak_bytes": [rows[-1]["peak_bytes"]],
            "versions": [side.ready["version"]],
        }
    if mine["whole"]:
        whole(ours, mine)  # what it compiles is in the cache from here on
        for _ in range(repeats):
            (a, ready), (b, other_ready) = whole(ours, mine), whole(theirs, other)
            seconds.append((a, b))
        peaks = (None, None)
    else:
        answers: tuple[list[Options], list[Options]] = ([], [])
        readies: list[Options] = []
        for group in [[0], [1]] if mine["apart"] else [[0, 1]]:
            with contextlib.ExitStack() as stack:
                sides = {}
                for i in group:
                    sides[i] = Side((ours, theirs)[i], (mine, other)[i])
                    stack.callback(sides[i].close)
                    readies.append(sides[i].ready)
                for repeat in range(repeats):
                    for i, side in sides.items():
                        answers[i].append(side.warm_run(times, first=repeat == 0))
        ready, other_ready = readies
        seconds = [(a["seconds"] / times, b["seconds"] / times) for a, b in zip(*answers, strict=True)]
        peaks = tuple(rows[-1]["peak_bytes"] for rows in answers)
    ratios = sorted((b / other["batch"]) / (a / mine["batch"]) for a, b in seconds)
    return {
        "ours_seconds": median([a for a, _ in seconds]),
        "peer_seconds": median([b for _, b in seconds]),
        "ratio": median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "batches": [mine["batch"], other["batch"]],
        "parameters": [ready["parameters"], other_ready["parameters"]],
        "ready_seconds": [ready["first"], other_ready["first"]],
        "peak_bytes": list(peaks),
        "versions": [ready["version"], other_ready["version"]],
    }


def median(values: list[float]) -> float:
    """Return the median."""
    ordered, n = sorted(values), len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def best_batch(command: list[str], options: Options, batches: list[int]) -> int:
    """Return the batch with the most images/s, among those that fit into memory."""
    found: dict[int, float] = {}
    for batch in batches if len(batches) > 1 else []:
        try:
            side = Side(command, options | {"batch": batch})
            found[batch] = batch * options["times"] / side.run(options["times"])["seconds"]
            side.close()
        except RuntimeError as error:  # out of memory
            print(f"  batch {batch}: {error}", file=sys.stderr)
            continue
        print(f"  batch {batch}: {found[batch]:,.0f} images/s", file=sys.stderr)
    return max(found, key=lambda batch: found[batch]) if found else batches[0]


def shape_options(name: str) -> Options:
    """Return the shape of a recipe's data and of its network, for both sides."""
    from diffusion_jax.networks.layers import usual_groups

    config = recipe({"recipe": name, "batch": 8, "devices": 1, "dtype": "float32"})
    net = config.network.unet
    return {
        "data": {name: config.data[name] for name in ("shape", "levels", "classes")},
        "size": config.data.shape[0], "in_channels": config.data.shape[-1], "channels": net.channels,
        "multipliers": list(net.multipliers), "blocks": net.blocks, "attention": list(net.attention),
        "dropout": net.dropout, "groups": net.groups or usual_groups(net.channels),
    }  # fmt: skip


def main(argv: list[str]) -> int:
    """Print a line for each case and peer, then one JSON object."""
    environment.keep_compiled()
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if argv[:1] == ["--serve"]:
        environment.use_huge_pages()  # as every command does
        serve(json.loads(argv[1]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers_python", required=True, help="an interpreter that has PyTorch, diffusers, …")
    parser.add_argument("--device", default="", choices=("", *CASES), help="default: a GPU where JAX sees one")
    names = "; ".join(f"{device}: {', '.join(cases)}" for device, cases in CASES.items())
    parser.add_argument("--cases", default="", help=f"some of them, by name ({names})")
    parser.add_argument("--peers", default=",".join(PEERS), help="PEER:MODE, …; none: this side alone")
    parser.add_argument("--tiny", action="store_true", help="tiny variants of the recipes, sampling in 4 steps")
    parser.add_argument("--batches", default="", help="instead of those of the cases, such as 256,512")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--cpu_devices", type=int, default=1, help="JAX's, of the cores; the threads of PyTorch are all"
    )
    args = parser.parse_args(argv)
    import jax

    device = args.device or ("gpu" if jax.default_backend() == "gpu" else "cpu")
    cases = {name: CASES[device][name] for name in (args.cases.split(",") if args.cases else CASES[device])}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"{jax.devices()[0].device_kind}, {cores} cores, Python {platform.python_version()}")
    print(f"{'case':12s} {'peer':36s} {'ours':>10s} {'peer':>10s}  images/s, ours to the peer's (least to greatest)")
    results: Options = {}
    for name, case in cases.items():
        if args.batches:
            case["batches"] = [int(batch) for batch in args.batches.split(",")]
        common: Options = {"whole": False, "apart": False} | case | {"on": device, "batch": case["batches"][0]}
        common |= {"recipe": f"{case['recipe']}:tiny", "times": 1, "whole": False} if args.tiny else {}
        common |= shape_options(common["recipe"])
        mine = common | {"devices": args.cpu_devices if device == "cpu" else 1}
        command, theirs = [sys.executable, __file__, "--serve"], [args.peers_python, str(HERE / "peers.py")]
        try:
            mine["batch"] = best_batch(command, mine, case["batches"])
        except RuntimeError as error:
            print(f"{name:12s} not measured: {error}", flush=True)
            continue
        known: dict[str, int] = {}  # a compiled network takes the batch that was best for it eager
        if args.peers == "none":
            results[f"{name} none"] = compare(command, None, mine, mine, args.repeats)
            print(f"{name:12s} {'none':36s} {results[f'{name} none']['ours_seconds']:9.4f}s", flush=True)
            continue
        for peer in args.peers.split(","):
            whose, mode = peer.split(":")
            if case["work"] == "sample" and whose != "diffusers":
                continue
            other = common | {"peer": whose, "mode": mode, "threads": cores, "warmup": 2, "devices": 1}
            other["steps"] = 4 if args.tiny else 1000
            other["device"] = "cuda" if device == "gpu" else "cpu"
            try:
                if whose not in known:
                    known[whose] = best_batch(theirs, other, case["batches"])
                found = compare(command, theirs, mine, other | {"batch": known[whose]}, args.repeats)
            except RuntimeError as error:
                print(f"{name:12s} {peer:36s} not measured: {error}", flush=True)
                continue
            results[f"{name} {peer}"] = found
            low, high = found["ratios"][0], found["ratios"][-1]
            print(
                f"{name:12s} {peer:36s} {found['ours_seconds']:9.4f}s {found['peer_seconds']:9.4f}s  "
                f"{found['ratio']:.2f} ({low:.2f} to {high:.2f}), batches {found['batches']}, "
                f"parameters {found['parameters']}",
                flush=True,
            )
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

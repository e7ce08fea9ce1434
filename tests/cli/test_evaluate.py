"""`main evaluate` and `main show`: every figure and picture of a run."""

import json
import pathlib

import numpy as np
import pytest

from diffusion_jax.analysis import progression
from diffusion_jax.experiment import sources
from diffusion_jax.runs import metric_log, trained


def test_evaluate_names_every_figure_and_repeats_the_loss_of_the_training(command, workdir):
    done = command("evaluate", f"--workdir={workdir}")
    figures = done.results
    assert done.code == 0 and figures["step"] == 2 and figures["num_samples"] == 8
    assert {"svm_confidence_ratio", "svm_rarest_class", "heldout_svm_confidence"} <= set(figures)
    assert figures["frechet_pixels"] > figures["heldout_frechet_pixels"] > 0
    assert figures["heldout_loss"] == pytest.approx(metric_log.last(workdir, "heldout_loss"), rel=1e-5)


def test_evaluate_gives_the_bound_term_by_term(command, workdir):
    done = command("evaluate", f"--workdir={workdir}", "--likelihood=vlb", "--num_samples=0")
    figures = done.results
    whole = figures["rate_bits_per_dim"] + figures["distortion_bits_per_dim"]
    assert done.code == 0 and figures["bits_per_dim"] == pytest.approx(whole, rel=1e-12)
    assert figures["baseline_bits_per_dim"] > 2 and figures["decoder"] == "bins"
    assert not any(name.startswith("svm") for name in figures)
    directory = workdir / "evaluation" / "2-0.9"
    with np.load(directory / "vlb.npz") as file:
        assert file["terms_nats"].shape == (16, 5) and file["mse"].shape == (16, 4)
        total = file["terms_nats"].astype(np.float64).sum(1).mean() / 64 / np.log(2)
    assert total == pytest.approx(figures["bits_per_dim"], rel=1e-6)
    assert json.loads((directory / "figures.json").read_text())["bits_per_dim"] == figures["bits_per_dim"]
    assert (directory / "vlb.png").exists() and (directory / "rate_distortion.png").exists()


def test_figures_of_samples_are_those_of_one_sampler(command, workdir):
    path = workdir / "evaluation" / "2-0.9" / "figures.json"

    def evaluated(number, *flags):
        words = "--metrics=fid", "--features=pixels", "--allow=few,sizes", "--bootstrap=0", f"--num_samples={number}"
        done = command("evaluate", f"--workdir={workdir}", *words, *flags)
        assert done.code == 0, done.err
        assert done.results["network_calls"] == 2
        stored = json.loads(path.read_text())
        assert "heldout_loss" in stored and stored["drawn"]["by"]["sampler.num_steps"] == 2
        return {name for name in stored if name.startswith("fd_pixels")}, stored["drawn"]["by"]["sampler.name"]

    two = "--sampler.num_steps=2"
    assert evaluated(8, two) == ({"fd_pixels_8"}, "ancestral")
    assert evaluated(9, two, "--sampler.tile=3") == ({"fd_pixels_8", "fd_pixels_9"}, "ancestral")
    assert evaluated(10, two, "--sampler.name=ddim") == ({"fd_pixels_10"}, "ddim")
    assert evaluated(10, two, "--sampler.name=ddim", "--sampler.ddim.eta=1") == ({"fd_pixels_10"}, "ddim")


def test_show_draws_the_steps_between_noise_and_data(command, workdir):
    done = command("show", f"--workdir={workdir}", "--num_samples=3")
    assert done.code == 0, done.err
    with np.load(workdir / "evaluation" / "2-0.9" / "progressive.npz") as file:
        for name in ("progressive_decoding", "progressive_generation", "shared_latents", "interpolation"):
            assert pathlib.Path(done.results[name]).exists() and file[name].shape[1:] == (3, 8, 8, 1)


def test_samples_by_class_are_those_of_their_seeds_and_classes(workdir):
    run = trained.load(str(workdir))
    rows = progression.class_samples(run, 2, np.arange(5, 8))
    assert rows.shape == (2, 3, 8, 8, 1)
    np.testing.assert_array_equal(rows[0], trained.draw(run, 3, 5)[1])


def test_examples_that_are_not_finite_are_counted(workdir):
    out = sources.make_from_model(trained.read_config(str(workdir)))
    x = np.zeros((2, 3, 8, 8, 1), np.float32)
    assert out(x).dtype == np.uint8 and out(x).shape == x.shape
    x[0, 1, 2, 3] = np.nan
    x[1, 2] = np.inf
    with pytest.raises(FloatingPointError, match="2 of 6"):
        out(x)

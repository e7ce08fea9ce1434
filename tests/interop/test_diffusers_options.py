import json
import math

import numpy as np
import pytest
import saved_models

from diffusion_jax import config as configs
from diffusion_jax.interop import diffusers_options, fit
from diffusion_jax.networks.unet import UNet
from diffusion_jax.process import schedules
from diffusion_jax.process.base import in_float64

CIFAR = {  # the published config of the CIFAR-10 model of Ho et al. 2020
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
CHAIN = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "variance_type": "fixed_large"}


def folder_of(tmp_path, config=CIFAR, chain=None, **changes):
    for name, content in (("config.json", config), ("scheduler_config.json", chain)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    saved_models.change(tmp_path / ("scheduler_config.json" if chain else "config.json"), **changes)
    return tmp_path


def test_the_published_config_is_the_recipe(tmp_path):
    assert diffusers_options.read_unet(folder_of(tmp_path)) == (UNet(3, dropout=0.0), (32, 32, 3))


def test_three_shapes_are_read(tmp_path):
    def read(name):
        return diffusers_options.read_unet(saved_models.write(tmp_path / name, name))

    small = {"channels": 8, "blocks": 1, "dropout": 0.0}
    two = UNet(3, **small, multipliers=(1, 2, 2), attention=(8, 4), heads=2, groups=4)
    assert read("two_resolutions") == (two, (16, 16, 3))
    oblong = UNet(3, channels=8, blocks=2, dropout=0.0, multipliers=(1, 2), attention=(8,), heads=1, groups=8)
    assert read("oblong") == (oblong, (8, 12, 3))
    grey = UNet(1, channels=8, blocks=1, dropout=0.1, multipliers=(1, 1, 3), attention=(), heads=3, groups=2)
    assert read("grey") == (grey, (8, 8, 1))


@pytest.mark.parametrize("name", saved_models.MODELS)
def test_written_options_equal_the_options_of_diffusers(name, tmp_path):
    folder = saved_models.write(tmp_path / "model", name)
    theirs = json.loads((folder / "config.json").read_text())
    ours = diffusers_options.describe_unet(*diffusers_options.read_unet(folder))
    assert {
        "_diffusers_version",
        "num_train_timesteps",
    } == theirs.keys() - ours.keys() and not ours.keys() - theirs.keys()
    if name == "grey":  # one level has attention, and heads = 3 is 8 channels there
        assert ours["attention_head_dim"] == 8
    assert ours == {key: theirs[key] for key in ours}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"attention_head_dim": ...}, "attention_head_dim"),
        ({"attention_head_dim": 7}, "attention_head_dim"),
        ({"attention_head_dim": "8"}, "attention_head_dim"),
        ({"attention_head_dim": 256, "down_block_types": ["AttnDownBlock2D"] * 4,
          "up_block_types": ["AttnUpBlock2D"] * 4}, "attention_head_dim"),
        ({"act_fn": "gelu"}, "act_fn"),
        ({"downsample_padding": 2}, "downsample_padding"),
        ({"norm_num_groups": 24}, "norm_num_groups"),
        ({"norm_num_groups": None}, "norm_num_groups"),
        ({"norm_eps": 0}, "norm_eps"),
        ({"freq_shift": 2}, "freq_shift"),
        ({"flip_sin_to_cos": "yes"}, "flip_sin_to_cos"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"time_embedding_dim": 64}, "time_embedding_dim"),
        ({"num_class_embeds": 0}, "num_class_embeds"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"attn_norm_num_groups": 8}, "attn_norm_num_groups"),
        ({"add_attention": False}, "add_attention"),
        ({"mid_block_type": None}, "mid_block_type"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor"),
        ({"center_input_sample": True}, "center_input_sample"),
        ({"downsample_type": "resnet"}, "downsample_type"),
        ({"upsample_type": "resnet"}, "upsample_type"),
        ({"down_block_types": ["SkipDownBlock2D"] * 4}, "down_block_types"),
        ({"down_block_types": [["DownBlock2D"]]}, "down_block_types"),
        ({"up_block_types": ["UpBlock2D"] * 4}, "up_block_types"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types"),
        ({"block_out_channels": [128, 192, 256, 256]}, "block_out_channels"),
        ({"block_out_channels": [128, 256.5, 256, 256]}, "block_out_channels"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"sample_size": None}, "sample_size"),
        ({"sample_size": ...}, "sample_size"),
        ({"sample_size": [32, 30]}, "sample_size"),
        ({"sample_size": [32, 32, 32]}, "sample_size"),
        ({"out_channels": 4}, "out_channels"),
        ({"layers_per_block": 0}, "layers_per_block"),
        ({"dropout": 1}, "dropout"),
        ({"new_feature": 3}, "new_feature"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name"),
    ],
)  # fmt: skip
def test_unsupported_options_are_refused_by_name(changes, key, tmp_path):
    with pytest.raises(ValueError) as caught:
        diffusers_options.read_unet(folder_of(tmp_path, **changes))
    assert key in str(caught.value) and str(tmp_path / "config.json") in str(caught.value)


def test_a_refusal_names_every_obstacle(tmp_path):
    changes = {"act_fn": "gelu", "sample_size": None, "norm_num_groups": 24, "new_feature": 3, "dropout": "x"}
    with pytest.raises(ValueError) as caught:
        diffusers_options.read_unet(folder_of(tmp_path, **changes, attention_head_dim=...))
    assert all(key in str(caught.value) for key in [*changes, "attention_head_dim"])
    with pytest.raises(ValueError) as caught:
        diffusers_options.describe_unet(UNet(3, channels=32, multipliers=(2, 3), heads=2, attention=(8,)), (8, 8, 3))
    assert all(key in str(caught.value) for key in ("multipliers", "groups", "heads"))


def test_the_model_of_the_training_example_is_read_and_written(tmp_path):
    """With the defaults of UNet2DModel, as the unconditional example of diffusers makes it: 113.67 M parameters."""
    config = {
        "sample_size": 64,
        "layers_per_block": 2,
        "block_out_channels": [128, 128, 256, 256, 512, 512],
        "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        "attention_head_dim": 8,
    }
    unet, shape = diffusers_options.read_unet(folder_of(tmp_path, config))
    assert shape == (64, 64, 3) and unet.attention == (4,) and unet.heads == 64 and unet.groups == 0
    assert sum(math.prod(size) for size in fit.shapes(unet, shape).values()) == 113_673_219
    written = diffusers_options.describe_unet(unet, shape)
    assert config.items() <= written.items()
    defaults = {"downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5}
    assert defaults.items() <= written.items() and written["num_class_embeds"] is None


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_config_that_is_no_object_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        diffusers_options.read_unet(tmp_path)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"multipliers": (2, 2)}, "multipliers"),
        ({"channels": 32}, "groups"),
        ({"heads": 2}, "heads"),
        ({"fourier": (7, 8)}, "fourier"),
    ],
)
def test_networks_that_diffusers_has_not_are_refused(options, option):
    unet = UNet(**{"out_channels": 3, "multipliers": (1, 2), "attention": (8,)} | options)
    with pytest.raises(ValueError, match=option):
        diffusers_options.describe_unet(unet, (8, 8, 3))


# The chain.


@pytest.mark.parametrize("name", saved_models.CHAINS)
def test_chains_are_those_of_diffusers(name, tmp_path):
    arrays = saved_models.golden()
    theirs = json.loads(str(arrays[f"{name}/chain"]))
    file, found = diffusers_options.read_scheduler(folder_of(tmp_path, chain=theirs))
    assert file == tmp_path / "scheduler_config.json"
    ours = found["schedule.name"]
    options = {key.split(".")[-1]: value for key, value in found.items() if key.startswith(f"schedule.{ours}.")}
    log_alpha, _ = in_float64(schedules.CHAINS[ours](found["process.num_steps"], **options), np.arange(1, 51) / 50)
    # float32 on both sides: diffusers multiplies 50 rounded factors, and 1 - beta is rounded where beta is 0.999
    np.testing.assert_allclose(
        np.exp(2 * np.asarray(log_alpha)), arrays[f"{name}/alphas_cumprod"], rtol=2e-4, atol=1e-6
    )
    config = {
        "schedule": {"name": ours, ours: options},
        "process": {"num_steps": 50},
        "prediction": {key: found[f"prediction.{key}"] for key in ("target", "variance")},
        "sampler": {"clip_x0": found["sampler.clip_x0"]},
        "network": {"conditioning": "step"},
    }
    again = diffusers_options.describe_scheduler(config)
    assert again == {key: theirs[key] for key in again}


def test_the_scheduler_of_a_pipeline_is_found(tmp_path):
    (tmp_path / "unet").mkdir()
    folder_of(tmp_path / "unet")
    assert diffusers_options.read_scheduler(tmp_path / "unet") == (None, {})
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(CHAIN))
    file, found = diffusers_options.read_scheduler(tmp_path / "unet")
    assert file == tmp_path / "scheduler" / "scheduler_config.json"
    assert found == {
        "process.num_steps": 1000,
        "schedule.name": "linear",
        "schedule.linear.beta_start": 1e-4,
        "schedule.linear.beta_end": 0.02,
        "prediction.target": "eps",
        "prediction.variance": "fixed_large",
        "sampler.clip_x0": True,
    }


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"_class_name": "PNDMScheduler"}, "_class_name"),
        ({"beta_schedule": "laplace"}, "beta_schedule"),
        ({"beta_schedule": ["linear"]}, "beta_schedule"),
        ({"beta_end": "0.02"}, "beta_end"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"variance_type": "learned"}, "variance_type"),
        ({"variance_type": "fixed_large_log"}, "variance_type"),
        ({"prediction_type": "flow"}, "prediction_type"),
        ({"thresholding": True}, "thresholding"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"clip_sample_range": 2.0}, "clip_sample_range"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"solver": "x"}, "solver"),
    ],
)  # fmt: skip
def test_chains_that_cannot_be_represented_are_refused_by_name(changes, key, tmp_path):
    with pytest.raises(ValueError) as caught:
        diffusers_options.read_scheduler(folder_of(tmp_path, chain=CHAIN, **changes))
    assert key in str(caught.value) and str(tmp_path / "scheduler_config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("section", "value", "key"),
    [
        ("schedule", {"name": "harmonic", "harmonic": {}}, r"schedule\.name"),
        ("schedule", {"name": "cosine", "cosine": {"offset": 0.1}}, r"schedule\.cosine\.offset"),
        ("prediction", {"target": "score", "variance": "fixed_large"}, r"prediction\.target"),
        ("network", {"conditioning": "logsnr"}, r"network\.conditioning"),
    ],
)
def test_chains_that_diffusers_has_not_are_refused(section, value, key):
    config = {
        "schedule": {"name": "linear", "linear": {}},
        "process": {"num_steps": 50},
        "prediction": {"target": "eps", "variance": "fixed_large"},
        "sampler": {"clip_x0": True},
        "network": {"conditioning": "step"},
    }
    with pytest.raises(ValueError, match=key):
        diffusers_options.describe_scheduler(config | {section: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("prediction.input_scaling", "unit_variance"), ("data.mean", 0.1), ("data.std", 0.5), ("sampler.keep_eps", True)],
)
def test_what_diffusers_would_ignore_is_refused(key, value):
    config = configs.load("digits").to_dict()
    diffusers_options.describe_scheduler(config)
    section, option = key.split(".")
    config[section][option] = value
    with pytest.raises(ValueError, match=key):
        diffusers_options.describe_scheduler(config)

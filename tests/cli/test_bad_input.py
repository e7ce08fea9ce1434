"""Bad input is one line that names the flag, key or file, exit code 2, and nothing written."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.training import checkpoints

# {workdir} is the finished run, {tmp} a folder with the files of `bad_things`.
TRAIN = ["train", "--config=digits:tiny", "--workdir={tmp}/new"]
DRAW = ["sample", "--workdir={workdir}", "--out={tmp}/x.npz"]
BAD = [
    (["train", "--workdir={tmp}/new"], "--config"),
    (["train", "--config=digits:tiny"], "--workdir"),
    (["train", "--config=nothing.py", "--workdir={tmp}/new"], "nothing.py"),
    (["train", "--config=digist", "--workdir={tmp}/new"], "'digits'"),
    (["train", "--config={tmp}/broken.py", "--workdir={tmp}/new"], "broken.py"),
    (["train", "--config={tmp}/name_error.py", "--workdir={tmp}/new"], "NameError"),
    (["train", "--config=digits:tony", "--workdir={tmp}/new"], "'tony'"),
    ([*TRAIN, "--config.optimiser.b1=0.5"], "--config.optimiser.b1"),
    ([*TRAIN, "--config.optimiser.b1=0.5"], "optimizer"),
    ([*TRAIN, "--config.network.foo.width=3"], "--config.network.foo.width"),
    ([*TRAIN, "--config.lr=1"], "optimizer.learning_rate"),
    ([*TRAIN, "--config.network.channels=64"], "network.unet.channels"),
    ([*TRAIN, "--config.network=ncsnpp"], "--config.network.name=ncsnpp"),
    ([*TRAIN, "--config.data.path=x"], "data.folder.path"),
    ([*TRAIN, "--sampler.name=ddim"], "--config.sampler.name"),
    ([*TRAIN, "--config.batch_size=many"], "--config.batch_size"),
    ([*TRAIN, "--config.batch_size=7"], "batch_size=7"),
    ([*TRAIN, "--config.parallel=pmapp"], "parallel"),
    ([*TRAIN, "--config.schedule.name=cosin"], "schedule.name"),
    ([*TRAIN, "--config.network.unet.attention=(5,)"], "attention"),
    ([*TRAIN, "--config.network.unet.multipliers=(1,1,1,1,1)"], "height 8"),
    ([*TRAIN, "--config.data.name=digit"], "data.name"),
    ([*TRAIN, "--config.data.shape=(9,9,1)"], "data.shape"),
    ([*TRAIN, "--config.data.name=folder", "--config.data.folder.path={tmp}/empty"], "{tmp}/empty"),
    ([*TRAIN, "--config.data.name=folder", "--config.data.folder.path={tmp}/mixed"], "{tmp}/mixed"),
    ([*TRAIN, "--config.data.name=arrays", "--config.data.arrays.path={tmp}/nan.npz"], "nan.npz"),
    ([*TRAIN, "--config.data.name=arrays", "--config.data.arrays.path={tmp}/far.npy", "--config.network.name=mlp",
      "--config.eval.svm=False"],
     "data.std"),
    ([*TRAIN, "--config.data.name=arrays", "--config.data.arrays.path={tmp}/gap.npz",
      "--config.data.arrays.label_key=y"], "gap.npz"),
    ([*TRAIN, "--config.data.name=folder", "--config.data.folder.path={tmp}/cut", "--config.data.folder.size=8",
      "--config.data.folder.heldout_fraction=0", "--config.eval.every=0", "--config.eval.svm=False", "--check_data"],
     "cut/1.png"),
    (["train", "--config=digits:tiny", "--workdir={tmp}/mixed/../grey/run", "--config.data.name=folder",
      "--config.data.folder.path={tmp}/grey", "--config.data.folder.size=8", "--config.eval.every=0",
      "--config.data.folder.heldout_fraction=0", "--config.eval.svm=False"],
     "data.folder.path"),
    ([*TRAIN, "--config.data.name=arrays", "--config.data.arrays.path={tmp}/objects.npz"], "objects.npz"),
    ([*TRAIN, "--config.data.name=tfds", "--config.data.tfds.dataset=cifar10", "--config.data.tfds.data_dir={tmp}"],
     "main prepare"),
    ([*TRAIN[:2], "--workdir={tmp}/file"], "{tmp}/file"),
    ([*TRAIN[:2], "--workdir={workdir}", "--config.seed=3", "--config.train_steps=9"], "seed"),
    ([*TRAIN, "--config.require_accelerator=True"], "CPU"),
    ([*TRAIN, "now"], "'now'"),
    (["describe", "--config=folder"], "data/images"),
    (["describe", "--config="], "--config"),
    (["evaluate", "--workdir={workdir}", "--likelihood=odd"], "--likelihood"),
    (["evaluate", "--workdir={workdir}", "--likelihood=vlb", "--bound.decoder=bin"], "bound.decoder"),
    (["evaluate", "--workdir={workdir}", "--likelihood=vlb", "--bound.num_steps=9"], "4"),
    (["evaluate", "--workdir={workdir}", "--num_samples=1"], "--num_samples"),
    (["evaluate", "--workdir={workdir}", "--num_samples=0", "--metrics=fid"], "--num_samples"),
    (["represent", "--workdir={workdir}", "--bound.num_steps=3"], "--num_steps"),
    (["represent", "--workdir={workdir}", "--seed=-1"], "--seed"),
    (["detect", "--workdir={workdir}", "--odd={tmp}/far.npy", "--bound.num_steps=3"], "--num_steps"),
    (["evaluate", "--workdir={workdir}", "--data.flip=true"], "--data.flip"),
    (["evaluate", "--workdir={workdir}", "--data.folder.paht=x"], "--data.folder.paht"),
    (["show", "--workdir={workdir}", "--num_samples=1"], "--num_samples"),
    (["show", "--workdir={workdir}", "--num_samples=500"], "--num_samples"),
    (["show", "--workdir={workdir}", "--seed=-1"], "--seed"),
    (["show", "--workdir={workdir}", "--seed=5000000000"], "--seed"),
    (["frontier", "--workdir={workdir}", "--steps=5,many"], "--steps"),
    (["sample", "--out={tmp}/x.npz"], "--workdir"),
    (["sample", "--workdir={tmp}/empty", "--out={tmp}/x.npz"], "{tmp}/empty"),
    (["sample", "--workdir={workdir}/checkpoints/2", "--out={tmp}/x.npz"], "--workdir={workdir} --step=2"),
    (["sample", "--workdir={workdir}/checkpoints", "--out={tmp}/x.npz"], "--workdir={workdir}"),
    (["sample", "--workdir=file://{tmp}/empty", "--out={tmp}/x.npz"], "{tmp}/empty"),
    (["sample", "--workdir={workdir}", "--out={tmp}/x.png"], "--out"),
    (["sample", "--workdir={workdir}", "--out={tmp}/no/x.npz"], "{tmp}/no"),
    (["sample", "--workdir={workdir}", "--out={tmp}/folder.npz"], "--out"),
    ([*DRAW, "--config.sampler.num_steps=3"], "--sampler.num_steps"),
    ([*DRAW, "--sampler.ddim.etta=1"], "--sampler.ddim.etta"),
    ([*DRAW, "--sampler.eta=0.5"], "sampler.ddim.eta"),
    ([*DRAW, "--sampler.steps=50"], "sampler.num_steps"),
    ([*DRAW, "--sampler=ddim"], "--sampler.name=ddim"),
    ([*DRAW, "--sampler.levels=(5,)"], "5"),
    ([*DRAW, "--sampler.num_step=3"], "num_steps"),
    ([*DRAW, "--sampler.num_steps=many"], "--sampler.num_steps"),
    ([*DRAW, "--sampler.num_steps=5"], "4"),
    ([*DRAW, "--pictured=0"], "--pictured"),
    ([*DRAW, "--step=7"], "7"),
    ([*DRAW, "--ema=0.7"], "0.7"),
    ([*DRAW, "--num_samples=0"], "--num_samples"),
    ([*DRAW, "--num_samples=few"], "--num_samples"),
    ([*DRAW, "--seed=-1"], "--seed"),
    ([*DRAW, "--label=1"], "--label"),
    (["restore", "--workdir={workdir}", "--task=paint", "--out={tmp}/x.npz"], "--task"),
    (["restore", "--workdir={workdir}", "--mask=random", "--seed=-1", "--out={tmp}/x.npz"], "--seed"),
    (["restore", "--workdir={workdir}", "--mask=top", "--out={tmp}/x.npz"], "--mask=top"),
    (["restore", "--workdir={workdir}", "--operator=blur", "--width=-1", "--out={tmp}/x.npz"], "--width=-1"),
    (["restore", "--workdir={workdir}", "--share=0.2", "--out={tmp}/x.npz"], "--share"),
    (["restore", "--workdir={workdir}", "--factor=3", "--out={tmp}/x.npz"], "--factor"),
    (["restore", "--workdir={workdir}", "--iterations=9", "--out={tmp}/x.npz"], "--iterations"),
    (["restore", "--workdir={workdir}", "--draws=3", "--out={tmp}/x.npz"], "--draws"),
    (["restore", "--workdir={workdir}", "--task=superres", "--factor=3", "--y={tmp}/gone.npy"], "gone.npy"),
    (["sample", "--workdir={workdir}", "--sampler.times=(1.0,0.5,0.0)", "--sampler.grid=karras"], "--sampler.grid"),
    (["restore", "--workdir={workdir}", "--operator=blur", "--task=superres", "--out={tmp}/x.npz"], "--task"),
    (["restore", "--workdir={workdir}", "--operator=mask", "--zeta=2", "--out={tmp}/x.npz"], "--zeta"),
    (["restore", "--workdir={workdir}", "--operator=mask", "--repeats=2", "--out={tmp}/x.npz"], "--repeats"),
    (["encode", "--workdir={workdir}", "--sampler.num_steps=3", "--out={tmp}/x.npz"], "--sampler.num_steps"),
    (["encode", "--workdir={workdir}", "--by=ddim", "--ode.rtol=1", "--out={tmp}/x.npz"], "--ode.rtol"),
    (["sample", "--workdir={workdir}", "--sampler.ddim.eta=0.5", "--out={tmp}/x.npz"], "--sampler.name=ddim"),
    (["sample", "--workdir={workdir}", "--sampler.karras.rho=5", "--out={tmp}/x.npz"], "--sampler.grid=karras"),
    (["sample", "--workdir={workdir}", "--num_steps=5"], "--sampler.num_steps"),
    (["sample", "--workdir={workdir}", "--guidance_scale=2"], "--guidance.scale"),
    (["train", "digits"], "--config=digits"),
    (["train", "--config=digits", "--train_steps=5"], "--config.train_steps"),
    (["train", "--config=digits", "--config.loss.p2.k=2", "--workdir={tmp}/x"], "--config.loss.name=p2"),
    (["restore", "--workdir={workdir}", "--operator=grey", "--y={tmp}/gap.npz", "--out={tmp}/x.npz"], "--y"),
    (["encode", "--workdir={workdir}", "--by=odd", "--out={tmp}/x.npz"], "--by"),
    (["compare"], "DIR"),
    (["compare", "{workdir}", "--out={tmp}/x.txt"], "--out"),
    (["compare", "{tmp}/empty", "--out={tmp}/x.md"], "--out"),
    (["compare", "{workdir}", "{workdir}", "--workdir={tmp}/empty"], "--workdir"),
    (["compare", "{tmp}/empty"], "{tmp}/empty"),
    (["report", "--workdir={tmp}/empty"], "{tmp}/empty"),
    (["sweep", "--sweep=none.py", "--workdir={tmp}/new"], "none.py"),
    (["export", "--to=torch", "--path={tmp}/x", "--workdir={workdir}"], "--to"),
    (["import", "--path={tmp}", "--workdir={tmp}/new"], "--from"),
    (["import", "--from=ddpm_tf1", "--path={tmp}", "--workdir={tmp}/new"], "--config"),
    (["import-inception", "--path={tmp}/none.pb"], "none.pb"),
    (["sample", "--workdir={workdir}", "--num_processes=2"], "--coordinator_address"),
    ([*DRAW, "--coordinator_address=localhost", "--num_processes=2", "--process_id=1"], "--coordinator_address"),
    ([*DRAW, "--coordinator_address=localhost:99999", "--num_processes=2", "--process_id=1"], "--coordinator_address"),
    ([*DRAW, "--coordinator_address=no.such.host.invalid:1", "--num_processes=2", "--process_id=1"], "no.such.host"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bad_things(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad")
    for folder in ("empty", "mixed", "folder.npz"):
        (path / folder).mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8)).save(path / "mixed" / f"{i}.png")
    (path / "mixed" / "3.png").write_bytes(b"not an image")
    (path / "cut").mkdir()
    (path / "grey").mkdir()
    Image.new("L", (8, 8), 99).save(path / "grey" / "0.png")
    Image.effect_noise((64, 64), 99).save(path / "cut" / "0.png")
    (path / "cut" / "1.png").write_bytes((path / "cut" / "0.png").read_bytes()[:900])
    (path / "broken.py").write_text("def get_config(:\n")
    (path / "file").write_text("")
    (path / "name_error.py").write_text("def get_config(variant):\n    return nothing\n")
    np.savez(path / "nan.npz", x=np.full((4, 2), np.nan, np.float32))
    np.save(path / "far.npy", np.random.default_rng(0).normal(size=(40, 2)) * 100)
    np.savez(path / "gap.npz", x=np.zeros((40, 8, 8), np.uint8), y=np.arange(40) % 3 + 1)
    np.savez(path / "objects.npz", x=np.array([[1], [None]], object))
    return path


@pytest.mark.parametrize(("words", "name"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_line(words, name, workdir, bad_things, command, monkeypatch):
    monkeypatch.chdir(bad_things)
    places = {"workdir": workdir, "tmp": bad_things}
    before = checkpoints.steps(workdir), sorted(bad_things.rglob("*"))
    done = command(*(word.format(**places) for word in words))
    complaints = [line for line in done.err if line.startswith("error: ")]
    assert done.code == 2 and not done.out and complaints == done.err[-1:]
    assert name.format(**places) in complaints[0]
    assert not any(noise in complaints[0] for noise in ("Traceback", "^^^", "\\n"))
    assert (checkpoints.steps(workdir), sorted(bad_things.rglob("*"))) == before

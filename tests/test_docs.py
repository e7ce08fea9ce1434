"""README.md, CONTRIBUTING.md and docs/: links, commands, flags, config keys and snippets; and docstrings."""

import ast
import contextlib
import importlib.util
import io
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap

import pytest

from diffusion_jax import config, main
from diffusion_jax.config import option_meanings

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON = re.compile(r"(?:^<!-- test: ([^\n]*) -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^<!-- test: commands; ?([^\n]*?) ?-->\n+((?:    .*\n)+)", re.MULTILINE)
SWAP = re.compile(r'"([^"]*)" -> "([^"]*)"')
CALL = re.compile(
    r"(?:diffusion_jax\.main ([a-z-]+)|launch/\S+ (?:-n \d |run )?(train|sample|evaluate))((?: [^\n#|&]*)?)"
)
PLACEHOLDER = re.compile(r"KEY|VALUE|DIR|FILE|NAME|DECAY|[…]")
SECTIONS = sorted({key.partition(".")[0] for key, *_ in config.table() if "." in key})
KEYS = {key for key, *_ in config.table()}
KEY = re.compile(rf"(?<![\w./])(?:{'|'.join(SECTIONS)})\.[a-z_0-9]+(?:\.[a-zA-Z_0-9]+)*(?![\w./(])")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def slugs(page):
    """The anchors that a forge makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@every_page
def test_links_and_anchors_exist(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert 120 <= len(text.splitlines()) <= 180
    assert len(text.split()) <= 1500


def test_every_page_starts_with_a_command_or_a_snippet():
    for page in ROOT.glob("docs/**/*.md"):
        if page.name != "README.md":
            _, _, rest = page.read_text().partition("\n")
            assert rest.lstrip("\n").startswith(("    ", "<!-- test", "```")), page


# Commands, flags and keys.


@pytest.fixture(scope="module")
def flags_of():
    """`flags_of(command)`: the names of its flags, from its help text; a KeyError for an unknown command."""
    found = {}

    def read(command):
        if command not in found:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                code = main.run(["main", command, "--help"])
            if code != 0:
                raise KeyError(command)
            found[command] = set(re.findall(r"--(?:\[no\])?([a-zA-Z_-]+)", out.getvalue()))
        return found[command]

    return read


def calls(page):
    """(command, words) of every call of the command line on a page."""
    text = re.sub(r"\\\n +", "", page.read_text())
    for command, launched, rest in CALL.findall(text):
        with contextlib.suppress(ValueError):  # an apostrophe
            yield command or launched, shlex.split(rest.partition("`")[0])


@every_page
def test_commands_and_their_flags_exist(page, flags_of):
    for command, words in calls(page):
        for word in words:
            if word.startswith("--") and len(word) > 2:
                flag = re.match(r"--([a-zA-Z_-]*)", word)[1]
                assert flag in flags_of(command), f"{command} {word}"


@every_page
def test_config_keys_exist(page):
    text = page.read_text()
    named = set(KEY.findall(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)))
    named |= {key for key in re.findall(r"--config\.([a-z_0-9.]+)=", text) if not PLACEHOLDER.search(key)}
    defined = set(re.findall(r"^def (\w+)", text, re.MULTILINE))  # parts that the page itself adds
    for key in named:
        if set(key.split(".")) & defined:
            continue
        known = key in KEYS or any(other.startswith(f"{key}.") for other in KEYS)
        assert known or "options." in key or key.endswith((".py", ".md", ".json", ".npz", ".png")), key


@every_page
def test_values_of_flags_are_accepted(page, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for how, code in PYTHON.findall(page.read_text()):
        if how.startswith("file "):
            (tmp_path / how.split()[1]).write_text(code)
    importlib.invalidate_caches()
    for _, words in calls(page):
        own, c = {}, config.defaults()
        for word in words:
            flag, _, value = word.partition("=")
            if PLACEHOLDER.search(word) or not value:
                continue
            if flag in ("--config", "--sweep"):
                name, _, _ = value.partition(":")
                exists = (ROOT / name).is_file() or (ROOT / "configs" / f"{name}.py").is_file()
                assert exists or name in ("my_recipe.py",), word
            elif flag.startswith("--config.") or ("." in flag and flag.lstrip("-").partition(".")[0] in SECTIONS):
                own[flag.removeprefix("--").removeprefix("config.")] = value
        config.override_all(c, own, idle=tuple(c))


# Snippets.


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a tiny run of digits in runs/tiny, from which its files can be imported."""
    folder = tmp_path_factory.mktemp("docs")
    quiet = ["--config.report.tensorboard=False", "--config.report.samples_every=0", "--config.eval.every=0"]
    with contextlib.chdir(folder):
        assert main.run(["main", "train", "--config=digits:tiny", "--workdir=runs/tiny", *quiet]) == 0
    return folder


def changed(text, how):
    """A snippet after the substitutions of its comment, each of which must apply."""
    for old, new in SWAP.findall(how):
        assert old in text, f"{old!r} is not in the snippet"
        text = text.replace(old, new)
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if PYTHON.search(page.read_text())], ids=lambda page: page.stem
)
def test_snippets_run(page, place, monkeypatch, own_logging):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    text = page.read_text()
    parts = [(found.start(), "python", found[1], found[2]) for found in PYTHON.finditer(text)]
    parts += [(found.start(), "commands", found[1], found[2]) for found in COMMANDS.finditer(text)]
    for _, kind, how, code in sorted(parts):
        assert how is not None, f"no comment says how to test\n{code}"
        if kind == "commands":
            for line in re.sub(r"\\\n +", "", changed(textwrap.dedent(code), how)).splitlines():
                words = shlex.split(line, comments=True)
                assert words[:3] == ["python", "-m", "diffusion_jax.main"], line
                assert main.run(words[2:]) == 0, line
        elif how.startswith("file "):
            pathlib.Path(how.split()[1]).write_text(code)
            importlib.invalidate_caches()
        elif how.startswith("run"):
            exec(compile(changed(code, how), str(page), "exec"), {"__name__": "snippet"})
        else:
            assert how.startswith("not run; "), how


@every_page
def test_diffs_apply(page):
    for diff in re.findall(r"^```diff\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        path = ROOT / re.search(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)[1]
        before = [line[1:] for line in diff.splitlines() if line[0] in " -" and not line.startswith("---")]
        assert "\n".join(before) in path.read_text(), diff


# The generated list and the site.


def test_errors_quoted_in_troubleshooting_exist():
    from_elsewhere = {"Rendezvous … threads"}
    package = " ".join(path.read_text() for path in (ROOT / "diffusion_jax").glob("**/*.py"))
    page = (ROOT / "docs/troubleshooting.md").read_text()
    quoted = {text for row in re.findall(r"^\| ([^|]*) \|", page, re.M) for text in re.findall('"([^"]+)"', row)}
    assert len(quoted) > 4
    assert [text for text in sorted(quoted - from_elsewhere) if text not in package] == []


def test_list_of_keys_is_that_of_the_program():
    spec = importlib.util.spec_from_file_location("config_keys", ROOT / "docs/config_keys.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text() == script.page(), "run python docs/config_keys.py"


def test_every_option_has_a_meaning():
    options = [key for key, *_ in config.table() if key not in config.SCHEMA]
    assert not [key for key in options if not option_meanings.meaning(key)]
    assert not [key for key in option_meanings.MEANINGS if "*" not in key and key not in options]


def test_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert run.returncode == 0, run.stdout + run.stderr


# Docstrings.

LEFT = 0
"""Docstrings that do not follow the rule yet: never to be raised."""
MOST_WORDS = 14
CODE = re.compile(r"`[^`]*`")
FORMULA = re.compile(r"[=\d_()\[\]]")
QUESTION = re.compile(r"(What|Whether|How|Which|Where|Of|Do|Who|Whose|When|Why)\b")
DEFINITIONS = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def first_sentences(*folders):
    """(file, name, first sentence) of every docstring in the Python files of folders."""
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, DEFINITIONS) and (text := ast.get_docstring(node)):
                paragraph = " ".join(text.strip().split("\n\n")[0].split())
                sentence = re.split(r"\.(?: |$)", paragraph)[0]
                yield str(path.relative_to(ROOT)), getattr(node, "name", "module"), sentence


def count_words(sentence):
    """Number of words: all that has a letter, but for code and formulas."""
    words = CODE.sub("", sentence).split()
    return sum(bool(re.search("[A-Za-z]", word)) and not FORMULA.search(word) for word in words)


def test_words_of_a_sentence_are_counted():
    assert count_words("Return a map; two, in x [B,*D] of `f(x, y)`, or x_t = 0: half-open") == 9


def test_docstrings_start_with_a_noun_or_an_imperative():
    everywhere = first_sentences("diffusion_jax", "tests", "launch", "configs", "notebooks")
    found = [place for place in everywhere if QUESTION.match(place[2])]
    assert len(found) <= LEFT, "\n".join(map(str, found))


def test_first_sentences_of_docstrings_are_short():
    found = [place for place in first_sentences("diffusion_jax") if count_words(place[2]) > MOST_WORDS]
    assert len(found) <= LEFT, "\n".join(map(str, found))

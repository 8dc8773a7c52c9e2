"""What the README says can be typed can be typed: its programs run, its commands exist."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
TARGETS = sorted(set(re.findall(r"`?make ([a-z-]+)", TEXT)))
MODULES = sorted(set(re.findall(r"python -m ([\w.]+)((?: [\w-]+)*)", TEXT)))
LINKS = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_programs_run(number):
    exec(compile(BLOCKS[number], f"README.md, program {number}", "exec"), {"__name__": f"readme_{number}"})


@pytest.mark.parametrize("target", TARGETS)
def test_the_targets_are_in_the_makefile(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("module", "arguments"), MODULES)
def test_the_modules_and_their_commands_exist(module, arguments, capsys):
    assert importlib.util.find_spec(module)
    if module == "verify":
        from verify.__main__ import main

        with pytest.raises(SystemExit) as stop:
            main([*arguments.split()[:1], "--help"])
        assert stop.value.code == 0
        said = capsys.readouterr().out
        assert all(option in said for option in re.findall(r"--\w+", arguments))


@pytest.mark.parametrize("link", LINKS)
def test_the_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_there_is_something_to_test():
    assert len(BLOCKS) >= 5
    assert {"demo", "test"} <= set(TARGETS)
    assert "verify" in dict(MODULES)


def test_a_program_that_fails_is_noticed(monkeypatch):
    monkeypatch.setattr(f"{__name__}.BLOCKS", ["import jbp\njbp.NoSuchLayer()"])
    with pytest.raises(AttributeError, match="NoSuchLayer"):
        test_the_programs_run(0)

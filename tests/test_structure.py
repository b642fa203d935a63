"""The house keeps its order: who imports whom, and that the README tells of everything."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from demixr_daemon.cli import _parser
from demixr_daemon.settings import section_defaults

ROOT = Path(__file__).parent.parent

# Each may import what stands on lower floors, and its own.
FLOORS = [
    ["beetsplug.demix", "demixr_daemon.cli", "demixr_daemon.__main__", "demixr_daemon.evaluation"],
    ["demixr_daemon.daemon"],
    ["demixr_daemon.web"],
    ["demixr_daemon.jobs", "demixr_daemon.worker", "demixr_daemon.planning", "demixr_daemon.console"],
    ["demixr_daemon.pipeline", "demixr_daemon.following", "demixr_daemon.intake", "demixr_daemon.configuration"],
    ["demixr_daemon.separation", "demixr_daemon.stems", "demixr_daemon.library"],
    ["demixr_daemon.publishing"],
    ["demixr_daemon.settings", "demixr_daemon.errors"],
]
# The one module, or few, that may import a library.
OWNERS = {
    "openunmix": {"demixr_daemon/separation/openunmix.py"},
    "soundfile": {*(f"demixr_daemon/separation/{name}.py" for name in ("decode", "encode", "excerpt", "files")),
                  "demixr_daemon/evaluation/songs.py"},
    "av": {*(f"demixr_daemon/separation/{name}.py" for name in ("decode", "excerpt", "files")), "demixr_daemon/intake/kept.py",
           "demixr_daemon/web/covers.py"},
    "soxr": {"demixr_daemon/separation/channels.py"},
    "requests": {"demixr_daemon/separation/transfer.py"},
    "mediafile": {"demixr_daemon/pipeline.py", "demixr_daemon/intake/kept.py", "demixr_daemon/web/covers.py"},
    "matplotlib": {"demixr_daemon/evaluation/plots.py"},
    "yt_dlp": {f"demixr_daemon/intake/{name}.py" for name in ("downloader", "playlists", "reasons", "session")},
    "beets": {"beetsplug/demix.py", "demixr_daemon/library.py", "demixr_daemon/configuration.py", "demixr_daemon/following.py",
              "demixr_daemon/planning.py", "demixr_daemon/console.py", "demixr_daemon/worker/importing.py",
              "demixr_daemon/worker/unfinished.py",
              *(f"demixr_daemon/web/{name}.py" for name in ("app", "beetsweb", "catalogue", "covers", "lanes", "music"))},
    "flask": {f"demixr_daemon/web/{name}.py" for name in ("app", "guard", "music", "work")},
    "cheroot": {"demixr_daemon/web/app.py"},
    "dbos": {"demixr_daemon/jobs/database.py", "demixr_daemon/jobs/workflow.py"},
    "sqlalchemy": {f"demixr_daemon/jobs/{name}.py" for name in ("database", "work", "ledger", "workflow")},
    "watchdog": {"demixr_daemon/intake/watch.py"},
}
MODULES = sorted([*(ROOT / "demixr_daemon").rglob("*.py"), ROOT / "beetsplug" / "demix.py"])


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def floor(name: str) -> int:
    for level, modules in enumerate(FLOORS):
        if any(name == module or name.startswith(f"{module}.") for module in modules):
            return level
    return len(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_imports_upwards(path: Path) -> None:
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    ours = {name for name in imported(path) if name.startswith(("demixr_daemon.", "beetsplug."))}
    assert [name for name in ours if floor(name) < floor(own)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_library_has_one_owner(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    for library, owners in OWNERS.items():
        if any(name == library or name.startswith(f"{library}.") for name in imported(path)):
            assert relative in owners, f"{relative} imports {library}"


def test_the_readme_tells_of_every_setting_and_option() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    settings = section_defaults()
    assert [key for key in settings.pop("daemon") if key not in ("youtube", "web") and f"    {key}:" not in readme] == []
    assert [key for key in settings if f"`{key}`" not in readme] == []
    plugin = (ROOT / "beetsplug" / "demix.py").read_text("utf-8")
    options = [node.args[-1].value for node in ast.walk(ast.parse(plugin)) if isinstance(node, ast.Call)
               and getattr(node.func, "attr", "") == "add_option" and isinstance(node.args[-1], ast.Constant)]  # fmt: skip
    assert len(options) > 10
    assert [option for option in options if option not in readme] == []


def test_the_readme_tells_of_every_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = next(action.choices for action in _parser()._actions if action.choices)
    assert isinstance(commands, dict)
    assert [name for name in commands if f"demixr {name}" not in readme] == []
    names = next(action.choices for action in commands["models"]._actions if action.choices)
    assert [name for name in names if f"demixr models {name}" not in readme] == []

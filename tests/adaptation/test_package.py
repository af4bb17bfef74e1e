"""What `from adaptation import ...` gives, and what it costs to import the package alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import adaptation
from adaptation.similarity.pair_adapter import PairAdapter

ROOT = Path(__file__).parents[2]


def test_the_estimator_is_found_in_the_package() -> None:
    assert adaptation.PairAdapter is PairAdapter
    assert {"PairAdapter", "Similarity"} <= {*dir(adaptation)} & {*adaptation.EXPORTS}


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'adaptation' has no attribute 'PairAdaptor'"):
        _ = adaptation.PairAdaptor
    with pytest.raises(ImportError, match="cannot import name 'PairAdaptor'"):
        exec("from adaptation import PairAdaptor")


def test_the_package_alone_imports_no_library() -> None:
    code = "import sys, adaptation; print(*{'torch', 'numpy', 'sklearn'} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "\n"

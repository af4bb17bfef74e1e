"""Run the tests that are marked for a GPU: `make test-gpu`. Without a GPU, say so in one line."""

from __future__ import annotations

import sys

import pytest

from common.console import logged
from common.errors import InputError
from common.machine.device import choose_device


def main() -> int:
    """Return pytest's exit code; 0 where there is no GPU."""
    with logged():
        try:
            device = choose_device(None)
        except InputError as error:
            print(f"the GPU cannot be used: {error}")
            return 2
    if device.type != "cuda":
        from common.machine.gpu import why_none

        print(f"no GPU that torch can use was found{why_none()}: the tests that need one are skipped")
        return 0
    return pytest.main(["-m", "gpu", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())

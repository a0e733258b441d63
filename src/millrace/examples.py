"""The example workflows: in the wheel, or, in a checkout, where their authors edit them."""

from pathlib import Path

_INSTALLED = Path(__file__).with_name("example_workflows")
_CHECKOUT = Path(__file__).parents[2] / "examples" / "workflows"


def example_files() -> list[Path]:
    """Return the example definitions, by name."""
    directory = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    return sorted(directory.glob("*.yaml"))

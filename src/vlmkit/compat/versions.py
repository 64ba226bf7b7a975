"""The releases of transformers that vlmkit is tested with.

Update `TESTED_TRANSFORMERS` whenever the suite passes on a new release.
"""

import warnings

import transformers
from packaging.version import Version

TESTED_TRANSFORMERS = ("5.23", "5.24")


def is_newer_than_tested(version: str) -> bool:
    """Return whether a transformers version belongs to a later minor release than the tested ones.

    Example:
        >>> is_newer_than_tested("5.24.1"), is_newer_than_tested("5.25.0")
        (False, True)
    """
    return Version(version).release[:2] > Version(TESTED_TRANSFORMERS[-1]).release[:2]


def warn_if_untested(version: str = transformers.__version__) -> None:
    """Warn once if the installed transformers is newer than the releases that vlmkit is tested with."""
    if is_newer_than_tested(version):
        warnings.warn(
            f"vlmkit is tested with transformers {' and '.join(TESTED_TRANSFORMERS)}, but {version} is installed. "
            "If something fails, install a tested release.",
            UserWarning,
            stacklevel=2,
        )

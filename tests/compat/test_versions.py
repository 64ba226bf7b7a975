import warnings

import pytest

from vlmkit.compat.versions import TESTED_TRANSFORMERS, warn_if_untested


@pytest.mark.parametrize("version", ["5.25.0", "5.25.0.dev0", "6.0.0"])
def test_a_newer_release_is_warned_of_and_not_rejected(version):
    with pytest.warns(UserWarning, match=rf"tested with transformers 5\.23 and 5\.24, but {version} is installed"):
        warn_if_untested(version)


@pytest.mark.parametrize("version", [*TESTED_TRANSFORMERS, "5.24.7", "5.23.1"])
def test_tested_releases_give_no_warning(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_untested(version)


def test_the_installed_release_is_tested():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_untested()

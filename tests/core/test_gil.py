from __future__ import annotations

import sysconfig

import pytest

from resilient.core.gil import GIL


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="it may be on or off")
def test_a_python_that_knows_nothing_of_its_lock_has_it() -> None:
    assert GIL is True

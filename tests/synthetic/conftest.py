"""The made-up head of the tests of scan-based heads, prepared once per process."""

import made_head
import pytest

from mlcm_jax.synthetic import scan_head, scan_model


@pytest.fixture(scope="session")
def made_heads(tmp_path_factory):
    """Scan-based heads of the made-up model (`made_head`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_model, "IDENTITIES", made_head.IDENTITIES)
        return scan_head.load(made_head.write(tmp_path_factory.mktemp("heads") / "ICT-FaceKit"))

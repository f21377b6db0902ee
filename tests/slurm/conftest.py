"""A Slurm cluster for the tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, only_process, running_cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes on loopback; the tests are skipped where the machine cannot run them."""
    with only_process("packages"):
        reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster

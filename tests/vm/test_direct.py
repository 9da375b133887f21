"""Another user than root where the supervisor has CAP_SYS_RESOURCE: directly, without a user namespace."""

import json
import re

import pytest

from tests.vm.conftest import Machine

pytestmark = pytest.mark.slow


def test_the_machine_lacks_nothing_that_the_main_job_needs(machine: Machine) -> None:
    done = machine.run("criu-agent --json doctor")
    found = {one["requirement"]: one["state"] for one in json.loads(done.stdout)}
    assert found["CAP_SYS_RESOURCE"] == "ok", done.stdout
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("tests", ["tests/root/test_user.py", "tests/workloads/test_another_user.py"])
def test_the_tests_of_another_user_pass_there(machine: Machine, tests: str) -> None:
    """The same ones as on a host without the capability: they look for it, and expect what it brings."""
    without = "-k 'not screen and not sudo and not terminal'"  # tmux and sudo are not on its disk
    done = machine.run(f"cd /srv/project && python3 -m pytest -q -p no:cacheprovider {without} {tests}")
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    passed = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed[0]) >= 4

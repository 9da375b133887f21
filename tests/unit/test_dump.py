"""What a dump is called by CRIU, and so its nft table: other runs of the host have tables as well."""

import pytest

from criu_agent.criu.dump import table_names

LOG = """\
(00.000000) CRIU run id = 7a62940e-b3ec-48f8-a356-6c22829fc94e
(00.000035) Version: 4.2.1 (gitid 0)
1:(00.000000) CRIU run id = 00000000-aaaa-48f8-a356-6c22829fc94e
"""


def test_the_table_has_the_beginning_of_the_dump_s_id() -> None:
    assert "CRIU-7a62940e-b3ec-48f8-a3" in table_names(LOG, 77)
    assert not [name for name in table_names(LOG, 77) if "0000" in name], "that of its helper is another"


@pytest.mark.parametrize("log", ["", "(00.000035) Version: 3.19 (gitid 0)\n"])
def test_the_table_of_an_older_criu_has_the_pid(log: str) -> None:
    assert table_names(log, 77) == {"CRIU-77"}

"""What CRIU says of a dump: its figures, and its id, by which its nft table is told from those of other runs."""

from pathlib import Path

import pytest

from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu.dump import figures, table_names

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


def test_the_figures_are_read_and_zeros_where_there_are_none(tmp_path: Path) -> None:
    stats = pb.DumpStats(freezing_time=1, frozen_time=20, memdump_time=3, memwrite_time=4)
    message = pb.Stats(dump=stats).SerializeToString()
    image = bytes(8) + len(message).to_bytes(4, "little") + message
    for length in range(len(image)):
        assert figures(tmp_path).frozen_time == 0
        (tmp_path / "stats-dump").write_bytes(image[:length])
    (tmp_path / "stats-dump").write_bytes(image)
    assert figures(tmp_path) == stats

"""What the host keeps for the connections of a run that is suspended."""

from criu_agent import runs


def release(run: runs.Run) -> None:
    """Let go of the connections of a suspended run: its peers see a reset instead of silence."""
    if run.state.network_lock and run.state.boot_id == runs.boot_id():
        from criu_agent.linux import nft

        nft.delete_table(run.state.network_lock)

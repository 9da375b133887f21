"""The verbs of the terminal: attach, resize, detach."""

from criu_agent.control import Kind, Message
from criu_agent.supervisor.clients import Client
from criu_agent.supervisor.output import records
from criu_agent.supervisor.supervised import Supervised


def attach(run: Supervised, client: Client, message: Message) -> None:
    """Show what was printed so far (all of it to the starter, else a screenful), then follow."""
    live, terminal = run.live, run.session.is_terminal
    client.tell("attached", terminal=terminal, input=terminal or live.spec.stdin_open)
    from_start = bool(message.get("from_start"))
    rows, columns = int(message.get("rows") or 24), int(message.get("columns") or 80)
    if terminal:
        client.output(Kind.OUTPUT, live.modes.enter())
        if not live.modes.full_screen or from_start:
            client.output(Kind.OUTPUT, live.scrollback.content() if from_start else live.scrollback.tail(rows))
    elif from_start:
        for record in records(live.directory / "output.log"):
            client.output(Kind.OUTPUT if record.stream == "stdout" else Kind.ERROR_OUTPUT, record.data)
    run.session.attach(client)
    if terminal and message.get("rows"):
        client.window = (rows, columns)
        if run.status is None:
            run.session.redraw(rows, columns)


def resize(run: Supervised, client: Client, message: Message) -> None:
    client.window = (int(message["rows"]), int(message["columns"]))
    session = client.session or run.session
    session.resize(*client.window)


def detach(run: Supervised, client: Client) -> None:
    if client.session is not None:
        client.session.detach(client)
    client.tell("detached", reason="", leave=run.live.modes.leave().decode())

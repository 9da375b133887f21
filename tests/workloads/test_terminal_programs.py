"""Programs that people use in a terminal go on where they were."""

import re
import shlex

import pytest

from tests.conftest import PYTHON, Agent, Screen
from tests.workloads.terminal import WAYS, Play, Workload, without

SHELL = "bash --norc --noprofile"

BASH = Workload(
    command=SHELL,
    begin=[
        ("", r"^\$$"),
        ("X=1; sleep 1000 &<Enter>", r"^\[1\] \d+$"),
        ("echo hal", r"^\$ echo hal$"),
    ],
    shown=r"^\$ echo hal$",
    again=[
        ("lo $((X += 1)) {n}; jobs<Enter>", r"^hallo (2 1|3 2|4 3)\n\[1\]\+? +Running +sleep 1000 &$"),
        ("echo cat {n}; cat<Enter>", r"^cat {n}$"),
        ("ping {n}<Enter>", r"^ping {n}\nping {n}$"),
        ("<C-z>", r"^\[2\]\+ +Stopped +.*cat$"),
        ("clear; echo back {n}; fg<Enter>", r"^back {n}\n.*cat$"),
        ("pong {n}<Enter>", r"^pong {n}\npong {n}$"),
        ("<C-c>", r"^\^C\n\$$"),
        ("echo hal", r"^\$ echo hal$"),
    ],
    finish=[("<C-u>kill %1; wait; exit 0<Enter>", r"^exit$")],
)

# A generator in the middle of its loop, a file read half, and a line that is not finished.
REPL = Workload(
    command=f"{shlex.quote(PYTHON)} -q",
    begin=[
        ("", r"^>>>$"),
        ("it = iter(range(10, 90, 10))<Enter>", "^>>> it.*\n>>>$"),
        ("source = open('/etc/services'); _ = source.readline()<Enter>", "^>>> source.*\n>>>$"),
        ("print('at', {next(it)", r"^>>> print\('at', \{next\(it\)$"),
    ],
    shown=r"^>>> print\('at', \{next\(it\)$",
    again=[
        (": source.tell()})<Enter>", r"^at \{{n}0: [1-9]\d+\}$"),
        ("_ = source.readline()<Enter>", r"\n>>>$"),
        ("print('at', {next(it)", r"^>>> print\('at', \{next\(it\)$"),
    ],
    finish=[(": 0})<Enter>", r"^at \{\d0: 0\}$"), ("exit()<Enter>", r"^\$$")],
)


def written(agent: Agent) -> None:
    text = (agent.workdir / "notes.txt").read_text()
    assert re.fullmatch(r"one\ntwo\n(round \d\n)+tail\n", text), "vim wrote its buffer into the host's own file"


VIM = Workload(
    command="vim -u NONE -i NONE -N notes.txt",
    begin=[
        ("", r"\A\n~\n"),
        ("ione<Escape>", r"\Aone\n~"),
        ("otwo<Escape>", r"\Aone\ntwo\n~"),
        # Its swap file is on the host and would grow later: a restore onto a file of another size is refused.
        (":preserve<Enter>otail<Escape>", r"\Aone\ntwo\ntail\n~"),
    ],
    shown=r"^tail\n~",
    again=[
        ("u", without("^tail$")),
        ("<C-r>", r"^tail\n~"),
        ("Gccround {n}<Escape>", r"^round {n}\n~"),
        ("otail<Escape>", r"^tail\n~"),
    ],
    finish=[(":w<Enter>", r'"notes.txt".*written'), (":q<Enter>", r"^\$$")],
    result=written,
)

TOP = Workload(
    command="top -d 0.3",
    begin=[("", r"^MiB Mem :"), ("m", r"^MiB Mem :[ 0-9./]+\[")],
    shown=r"^MiB Mem :[ 0-9./]+\[",
    updates=True,
    again=[("h", "Help for Interactive Commands"), ("<Escape>", r"^MiB Mem :[ 0-9./]+\[")],
    finish=[("q", r"^\$\s*\Z")],
)

HTOP = Workload(
    command="htop -d 3",
    begin=[("", "F5Tree"), ("<F5>", "F5List")],
    shown="F5List",
    updates=True,
    again=[("<F4>htop", "Filter: htop"), ("<Escape>", "F5List"), ("<F5>", "F5Tree"), ("<F5>", "F5List")],
    finish=[("q", r"^\$\s*\Z")],
)

TMUX = Workload(
    command=f"env -u TMUX tmux -L inner -f /dev/null new-session {SHELL} ';' split-window -h {SHELL}",
    begin=[
        ("", r"^\$ +│\$$"),
        ("A=right<Enter>", r"│\$ A=right\n.*│\$$"),
        ("<C-b>o", r"\["),
        ("A=left<Enter>", r"^\$ A=left +│.*\n\$ +│"),
        ("echo in $A", r"^\$ echo in \$A +│"),
    ],
    shown=r"^\$ echo in \$A +│",
    again=[
        (" {n}<Enter>", r"^in left {n} +│"),
        ("<C-b>oecho in $A {n}<Enter>", r"│in right {n}$"),
        ("<C-b>o<C-l>echo in $A", r"^\$ echo in \$A +│"),
    ],
    finish=[("<C-u>exit<Enter>", without("│")), ("exit<Enter>", r"^\[exited\]\n\$$")],
)

WORKLOADS = {"bash": BASH, "python": REPL, "vim": VIM, "top": TOP, "htop": HTOP, "tmux": TMUX}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_program_in_a_terminal_goes_on(agent: Agent, screen: Screen, name: str, way: str) -> None:
    play = Play(agent, screen, WORKLOADS[name], name)
    play.begin()
    WAYS[way](play)

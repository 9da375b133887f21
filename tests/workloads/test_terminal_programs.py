"""Programs that people use in a terminal go on where they were."""

import sys

import pytest

from tests.conftest import Agent, Screen
from tests.workloads.terminal import WAYS, Play, Workload, without

BASH = Workload(
    command="bash --norc --noprofile",
    begin=[
        ("X=1; sleep 1000 &<Enter>", r"^\[1\] \d+$"),
        ("echo hal", r"^\$ echo hal$"),
    ],
    shown=r"^\$ echo hal$",
    again=[
        ("lo $((X += 1)) {n}; jobs<Enter>", r"^hallo (?!1)[2-4] {n}\n\[1\]\+? +Running +sleep 1000 &$"),
        ("cat<Enter>ping {n}<Enter>", r"^ping {n}\nping {n}$"),
        ("<C-z>", r"^\[2\]\+ +Stopped +cat$"),
        ("clear; fg<Enter>pong {n}<Enter>", r"\A\s*cat\npong {n}\npong {n}$"),
        ("<C-c>", r"^\^C\n\$$"),
        ("kill -0 %1 && echo hal", r"^\$ kill"),
    ],
)

"""What every verb has at hand: the global options, and the configuration that they change.

The global options may stand before or behind the verb, so that `criu-agent --json ps` and `criu-agent ps --json`
are the same.
"""

import os
import re
import signal
import sys
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import click

from criu_agent import config, log
from criu_agent.config import Config
from criu_agent.errors import Failure, NotFound, NotRoot, ToolFailed, Usage

if TYPE_CHECKING:  # their import takes a while, and --help needs none of them
    from criu_agent.model import RunSpec
    from criu_agent.ops.vault import Ask
    from criu_agent.repo.repository import Repository
    from criu_agent.runs import Run


@dataclass(frozen=True, kw_only=True)
class GlobalOptions:
    repo: str | None = None
    key_file: str | None = None
    endpoint_url: str | None = None
    allow_rollback: bool = False
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    no_color: bool = False
    yes: bool = False


def options() -> list[click.Option]:
    """The global options, made anew: click keeps state in them."""
    return [
        click.Option(
            ["-r", "--repo"],
            metavar="URL",
            help="Repository of the snapshots: a directory, or s3://BUCKET/PREFIX  [env: CRIU_AGENT_REPOSITORY]",
        ),
        click.Option(
            ["--key-file"],
            metavar="FILE",
            help="Key of the repository  [env: CRIU_AGENT_KEY_FILE; the one that init made on this host by default]",
        ),
        click.Option(
            ["--endpoint-url"], metavar="URL", help="S3 service, where it is not AWS  [env: AWS_ENDPOINT_URL]"
        ),
        click.Option(
            ["--allow-rollback"],
            is_flag=True,
            help="Believe a repository that shows an older state than this host has seen of it",
        ),
        click.Option(["--json"], is_flag=True, help="Print JSON"),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print ids only, and no progress"),
        click.Option(["-v", "--verbose"], count=True, help="Say more; -vv shows every command that is run"),
        click.Option(["--no-color"], is_flag=True, help="No colour  [env: NO_COLOR]"),
        click.Option(["-y", "--yes"], is_flag=True, help="Answer yes to every question"),
    ]


class Context:
    """The global options in force for one command line, and what follows from them."""

    def __init__(self) -> None:
        self.options = GlobalOptions()

    def take(self, params: dict[str, Any]) -> None:
        """Take the global options out of a command's parameters; what was given earlier stays in force."""
        old = self.options
        self.options = GlobalOptions(
            repo=params.pop("repo", None) or old.repo,
            key_file=params.pop("key_file", None) or old.key_file,
            endpoint_url=params.pop("endpoint_url", None) or old.endpoint_url,
            allow_rollback=params.pop("allow_rollback", False) or old.allow_rollback,
            json=params.pop("json", False) or old.json,
            quiet=params.pop("quiet", False) or old.quiet,
            verbose=params.pop("verbose", 0) or old.verbose,
            no_color=params.pop("no_color", False) or old.no_color,
            yes=params.pop("yes", False) or old.yes,
        )
        if self.options.verbose > 1 > old.verbose - 1:
            log.open_stderr()

    @cached_property
    def config(self) -> Config:
        return config.load(
            repository=self.options.repo, key_file=self.options.key_file, endpoint_url=self.options.endpoint_url
        )

    @property
    def color(self) -> bool:
        return sys.stdout.isatty() and not self.options.no_color and not config.no_color()

    def repository(self, *wanted: str) -> "Repository":
        """The repository, opened: that of the run of this host which one of these words names (RUN, RUN~2, RUN:tag),
        and the configured one where none does. Usage if they name runs of several.
        """
        from criu_agent.ops import vault

        found = [run for word in wanted if (run := self.run_named(word)) is not None]
        for run in found:
            self.use_repository_of(run.spec)
        if self.options.repo is None and len({run.spec.repository for run in found}) > 1:
            names = " and ".join(dict.fromkeys(run.spec.name for run in found))
            raise Usage(f"{names} have their snapshots in several repositories", hint="name one with --repo")
        return vault.open_repository(
            self.config,
            ask=self.ask_passphrase,
            older=self.options.allow_rollback,
            make=not self._has_snapshots_there(),
        )

    def _has_snapshots_there(self) -> bool:
        """Whether a run of this host has snapshots in the repository: then it is not made anew."""
        from criu_agent import runs

        here = [run for run in runs.every(self.config) if run.spec.repository == self.config.repository]
        return any(run.state.last_snapshot for run in here)

    def use_repository_of(self, spec: "RunSpec") -> None:
        """Take the repository of a run, and what opens it, for this command line's. What flags say stays.

        Nothing is changed where --repo names another one.
        """
        from criu_agent import runs

        said = self.config
        if self.options.repo is not None and said.repository != spec.repository:
            return
        self.config = runs.with_repository_of(said, spec)
        if self.options.key_file is not None:
            self.config = replace(self.config, key_file=said.key_file)
        if self.options.endpoint_url is not None:
            self.config = replace(self.config, endpoint_url=said.endpoint_url)

    def run_named(self, word: str) -> "Run | None":
        """The run of this host that RUN, RUN~2 or RUN:tag means."""
        from criu_agent import runs

        try:
            return runs.find(self.config, re.split("[~:]", word)[0])
        except NotFound:
            return None

    @property
    def ask_passphrase(self) -> "Ask | None":
        """Asks the person at the terminal; None where there is nobody."""
        return self._ask if sys.stdin.isatty() and sys.stderr.isatty() else None

    def _ask(self, repository: str) -> bytes:
        from criu_agent.ops import passphrase

        words = str(click.prompt(f"passphrase of {repository}", hide_input=True, err=True)).encode()
        if repository == self.config.repository:  # nobody is asked twice; and a supervisor inherits it
            self.config = passphrase.hold(self.config, words)
        return words

    def ask_new_passphrase(self) -> bytes:
        """Asks twice. Usage where there is no terminal."""
        if not sys.stdin.isatty():
            raise Usage("there is no terminal to ask for a passphrase", hint="use --passphrase-file")
        words = click.prompt("new passphrase", hide_input=True, confirmation_prompt="again", err=True)
        return str(words).encode()

    def require_root(self) -> None:
        if os.geteuid() != 0:
            raise NotRoot("criu-agent needs root", hint=f"sudo criu-agent {' '.join(sys.argv[1:])}")


class Verb(click.Command):
    """A command that takes the global options too, and is for root unless it says otherwise.

    gives_code: it exits with the code of the wrapped command, so a failure of ours must not look like one (125).
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's
        needs_root: bool = True,
        gives_code: bool = False,
        **kwargs: Any,  # noqa: ANN401 - click's
    ) -> None:
        super().__init__(*args, **kwargs)
        self._needs_root = needs_root
        self._gives_code = gives_code
        own = {spelling for parameter in self.params for spelling in parameter.opts}
        for option in options():
            option.opts = [spelling for spelling in option.opts if spelling not in own]
            option.hidden = True  # they are in `criu-agent --help`, once
            if option.opts and option.name not in {parameter.name for parameter in self.params}:
                self.params.append(option)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        ctx.obj.take(ctx.params)
        if self._needs_root:
            ctx.obj.require_root()
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # The reader of our output has gone, as in `criu-agent ps | head -1`. click would make a 1 of it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except Failure as error:
            if self._gives_code and error.exit_code == Failure.exit_code:
                raise ToolFailed(error.message, hint=error.hint, agent_state=error.agent_state) from error
            raise


# @verb("ps") def ps_verb(context: Context, ...): the first argument is the Context
verb = partial(click.command, cls=Verb, context_settings={"help_option_names": ["-h", "--help"]})

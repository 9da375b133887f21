"""init and key: making a repository, and who can open it."""

from pathlib import Path
from typing import Any

import click

from criu_agent.cli import show
from criu_agent.cli.context import Context, verb
from criu_agent.errors import Usage

_HEX = 64


@verb("init")
@click.option("--recipient", "recipients", multiple=True, metavar="age1...", help="Wrap the key for this recipient")
@click.option("--passphrase", is_flag=True, help="Wrap the key with a passphrase, which is asked for")
@click.option("--passphrase-file", metavar="FILE", help="Wrap the key with the first line of FILE")
@click.pass_obj
def init_verb(
    context: Context, /, recipients: tuple[str, ...], passphrase: bool, passphrase_file: str | None
) -> None:
    """Make a repository. Its key goes into a file on this host (--key-file), unless you say otherwise.

    Whoever has the key can read and write the snapshots; without it they are lost. Keep a copy somewhere else.
    The store is tried out: whether several hosts may share it.

    Exit codes: 0 done, 1 there is a repository already.
    """
    from criu_agent.ops import vault

    words = _new_passphrase(context, ask=passphrase, path=passphrase_file)
    made = vault.init(context.config, recipients=recipients, passphrase=words, label=_label())
    if context.options.json:
        show.message(
            "summary",
            repository=made.header.id,
            url=context.config.repository,
            key_file=str(made.key_file) if made.key_file else None,
            signer=made.signer,
            conditional=made.header.conditional,
        )
    else:
        show.result(f"repository {made.header.id} is at {context.config.repository}")
        if made.key_file:
            show.result(f"its key is in {made.key_file}: without it all snapshots are lost, so keep a copy elsewhere")
        show.result(f"its signer is {made.signer}")
    if not made.header.conditional:
        show.line(
            "warning: this store cannot put on a condition, so only one host may use it at a time: "
            + "; ".join(made.limits)
        )


def _label() -> str:
    import os

    return os.uname().nodename


def _new_passphrase(context: Context, *, ask: bool, path: str | None) -> bytes:
    from criu_agent.repo import keyfile

    if ask and path:
        raise Usage("--passphrase and --passphrase-file exclude each other", hint="give one of them")
    if path:
        return keyfile.read_passphrase(Path(path))
    return context.ask_new_passphrase() if ask else b""


@verb("key")
@click.argument("action", type=click.Choice(["list", "add", "remove", "rotate", "trust"]))
@click.argument("key", metavar="[KEY-ID|SIGNER]", required=False)
@click.option("--recipient", metavar="age1...", help="add: wrap the key for this recipient")
@click.option("--passphrase", is_flag=True, help="add: wrap it with a passphrase, which is asked for")
@click.option(
    "--passphrase-file", metavar="FILE", help="add: with the first line of FILE; rotate: keep that passphrase"
)
@click.option("--label", default="", help="add: what the list shows")
@click.option("--drop", multiple=True, metavar="KEY-ID", help="rotate: this key gets no successor")
@click.pass_obj
def key_verb(context: Context, /, action: str, key: str | None, **options: Any) -> None:  # noqa: ANN401
    """Who can open the repository.

    list shows the keys; add makes one for somebody else's age recipient, or a passphrase; remove deletes one; rotate
    makes new keys for everything that is written from now on, for all recipients but those that are dropped; trust
    notes a signer that another host has shown as genuine.

    Exit codes: 0 done, 10 no such key, 12 wrong key.
    """
    if action == "trust":
        _trust(context, key)
    elif action == "list":
        _list(context)
    elif action == "add":
        _add(context, options)
    elif action == "remove":
        _remove(context, key)
    else:
        _rotate(context, options)


def _trust(context: Context, signer: str | None) -> None:
    from criu_agent.ops import vault

    if not signer or len(signer) != _HEX:
        raise Usage("a signer has 64 hex digits", hint="`criu-agent key list` on a host that you trust shows it")
    path = vault.believe(context.config, signer)
    show.line(f"noted in {path}")


def _list(context: Context) -> None:
    from criu_agent.ops import vault

    repository = context.repository()
    found = vault.key_entries(repository)
    if context.options.json:
        show.document(
            [
                {
                    "key": one.id,
                    "kind": "passphrase" if one.by_passphrase else "recipient",
                    "recipient": one.details.recipient or None,
                    "label": one.details.label,
                    "created": one.details.created,
                    "generation": one.generation,
                    "stale": one.stale,
                }
                for one in found.keys
            ]
        )
    else:
        rows = [
            (
                one.id,
                f"{one.generation}{' (stale)' if one.stale else ''}",
                one.details.created[:19].replace("T", " "),
                one.details.label or "-",
                one.details.recipient or "passphrase",
            )
            for one in found.keys
        ]
        show.table(("KEY", "GENERATION", "CREATED", "LABEL", "FOR"), rows, color=context.color)
        show.line(f"signer: {repository.secret.current.signer.hex()}")
    for error in found.unreadable.values():
        show.line(f"warning: {error.message}")


def _add(context: Context, options: dict[str, Any]) -> None:
    from criu_agent.ops import vault

    words = _new_passphrase(context, ask=options["passphrase"], path=options["passphrase_file"])
    repository = context.repository()
    made = vault.add_key(repository, recipient=options["recipient"] or "", passphrase=words, label=options["label"])
    show.result(made)
    if options["recipient"]:
        show.line(
            f"hint: that host must trust the signer: criu-agent key trust {repository.secret.current.signer.hex()}"
        )


def _remove(context: Context, key: str | None) -> None:
    from criu_agent.ops import vault

    if not key:
        raise Usage("which key", hint="`criu-agent key list` shows them")
    vault.remove_key(context.repository(), key)
    show.line(
        "removed; whoever has opened the repository with it still can: `criu-agent key rotate` shuts him out of "
        "what is written from then on"
    )


def _rotate(context: Context, options: dict[str, Any]) -> None:
    from criu_agent.ops import vault
    from criu_agent.repo import keyfile

    kept = [keyfile.read_passphrase(Path(options["passphrase_file"]))] if options["passphrase_file"] else []
    repository = context.repository()
    done = vault.rotate_keys(context.config, repository, passphrases=kept, drop=options["drop"])
    show.result(f"generation {done.secret.current.number}, its signer is {done.secret.current.signer.hex()}")
    for one in done.dropped:
        show.line(f"dropped: {one.id} ({one.details.label or one.details.recipient or 'passphrase'})")

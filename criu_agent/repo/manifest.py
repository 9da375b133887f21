"""Manifests to bytes and back (docs/format.md sections 3 and 6)."""

from dataclasses import asdict

from criu_agent.errors import Corrupt
from criu_agent.model import Host, Manifest
from criu_agent.repo.fields import Fields
from criu_agent.store.document import behind_version_line, from_json, to_json, version_line

VERSION = 1
SIZE_LIMIT = 64 << 20
_KIND = "manifest"


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest. ValueError for one that `decode` would refuse: such a one is never stored."""
    data = version_line(_KIND, VERSION) + to_json(asdict(manifest))
    try:
        decode(data, "this manifest")
    except Corrupt as error:
        raise ValueError(error.message) from error
    return data


def decode(data: bytes, what: str) -> Manifest:
    """The manifest in `data`; `what` names it in errors ("snapshot 1a2b").

    HostCannot for a version that is not ours, before anything else is looked at; Corrupt for any field that
    is not as it should be. Keys that we do not know are ignored.
    """
    if len(data) > SIZE_LIMIT:
        raise Corrupt(f"{what} is changed: it is longer than {SIZE_LIMIT} bytes")
    body = behind_version_line(data, _KIND, VERSION, what)
    fields = Fields(from_json(body, what), what)
    return Manifest(
        run_id=fields.name("run_id"),
        run_name=fields.name("run_name"),
        sequence=fields.integer("sequence", least=1),
        parent=fields.snapshot_id("parent"),
        created=fields.time("created"),
        reason=fields.text("reason"),
        stopped=fields.flag("stopped"),
        argv=fields.texts("argv"),
        workdir=fields.text("workdir"),
        labels=fields.mapping("labels", Fields.text),
        tags=fields.texts("tags"),
        host=_host(fields.inner("host")),
        images=fields.named("images", Fields.blob),
        trees=fields.named("trees", Fields.tree),
        attachments=fields.named("attachments", Fields.blob),
        resources=fields.named("resources", Fields.any),
        stored=fields.integer("stored") if "stored" in fields.document else 0,
    )


def _host(fields: Fields) -> Host:
    return Host(
        hostname=fields.text("hostname"),
        boot_id=fields.text("boot_id"),
        kernel=fields.text("kernel"),
        machine=fields.text("machine"),
        page_size=fields.integer("page_size"),
        criu=fields.text("criu"),
        cpu_model=fields.text("cpu_model") if "cpu_model" in fields.document else "",
        cpu_flags=fields.texts("cpu_flags") if "cpu_flags" in fields.document else (),
    )

"""Every hostile manifest: the values that a manifest may not have, and what is no manifest at all."""

import base64
import json

import zstandard

from tests.fakes.hostile import (
    GONE,
    PAGE,
    Case,
    Honest,
    Hostile,
    changed,
    claims,
    content,
    framed,
    image,
    index,
    names,
    of_documents,
    plain,
    renamed,
    stored,
    table,
    unsized,
    with_resources,
    zeros,
)

DEEP = b"[" * 100_000 + b"]" * 100_000
MILLION = json.dumps(dict.fromkeys(map(str, range(1_000_000)), 0)).encode()
FILE = {"path": "f", "type": "file", "mode": 0o600, "size": 10, "extents": [[0, 10]], "blob": 0, "offset": 0}
LINK = {"path": "l", "type": "symlink", "target": "/etc"}
HARD = {"path": "l", "type": "link"}
NODE = {"path": "n", "type": "block"}
CONNECTION = dict.fromkeys(("id", "program", "protocol", "local", "remote", "state", "action"), "x")
MAY: dict[str, object] = {
    **dict.fromkeys(("uids", "gids"), [0] * 4),
    "pids": [1],
    "groups": [],
    "no_new_privs": False,
    "seccomp": 2,
    "capabilities": dict.fromkeys(("inheritable", "permitted", "effective", "bounding", "ambient"), "0"),
}
ZERO = "0" * 32
LONG = base64.b64encode(bytes(5000)).decode()
X5000 = b"x" * 5000
PACKED = zstandard.compress(X5000)
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
OLD_MAGIC = b"\x22\xb5\x2f\xfd"
EMPTY: dict[str, object] = {"extents": [], "size": 0}
SCROLLBACK = "body/attachments/scrollback"
RESOURCES = "head/resources"
NAMES = {
    "images": (
        *("../evil.img", "/etc/cron.d/evil.img", "..", ".hidden.img", "a/b.img", "a\nb.img", "a\0.img", ""),
        *("x" * 200 + ".img", "criu-restore.log", "stats-restore", "action-script.sh", "\udcff.img"),
    ),
    "trees": ("../upper", "/", "a/b", ""),
    "attachments": ("../scrollback", "a\nb"),
}
VALUES: dict[str, tuple[object, ...]] = {
    "head/run_name": ("../x", "-rf", "a b", "", "x" * 100),
    "head/run_id": ("../x", "other", "", 7),
    "head/workdir": ("../", "relative", "", "/a/../b", "/a\0b", 7),
    "head/argv": ([], ["a\0b"], "sh", [7]),
    "head/created": ("now", "2026-11-21", 7, "", "2026-11-21T03:14:15+01:00"),
    "head/sequence": (0, -1, 1 << 63, 99, "2"),
    "head/stopped": ("yes", 1),
    "head/labels": ({"a": 1}, []),
    "head/tags": ("t", [1]),
    "head/parent": ("../x", None),
    "head/size": (-1, 1e300),
    "head/stored": (None,),
    "head/reason": (7,),
    "head/host": (GONE, []),
    "head/host/machine": ("vax", 7),
    "head/host/page_size": (0, 3, 4097, 1 << 62),
    "head/host/criu": ("99.9",),
    "head/host/cpu_flags": ("sse",),
    "head/host/cgroups": (7,),
    "head/host/time_namespaces": ("yes",),
    "head/host/monotonic": (-1, 1e300),
    "head/host/boot_id": (7,),
    "head/host/hostname": (GONE,),
    f"{RESOURCES}/captured": (
        *([], "x", None, 7, {"through-1": {"path": "/x", "excluded": []}}),
        *({name: {"path": "/x", "excluded": []}} for name in ("upper", "through-00")),
        *({"through-0": {"path": path, "excluded": []}} for path in ("../x", "/a/../b", "/a\0b", 7)),
        *({"through-0": {"path": "/x", "excluded": globs}} for globs in ("*", [7], ["/"], ["a\0b"])),
    ),
    f"{RESOURCES}/run/exclude": ("*.log", [7], [""]),
    RESOURCES: ({"a/b": 1}, {}, []),
    f"{RESOURCES}/run": (GONE, [], "x", None, 7),
    f"{RESOURCES}/privileges": (*({}, "x", [7], [{}], [[]]), [MAY | {"pids": [1 << 40]}], [MAY | {"uids": [0]}]),
    f"{RESOURCES}/run/cpu_baseline": ("x86-64-v1", 7, ["x86-64-v2"]),
    f"{RESOURCES}/run/no_new_privs": (0, "yes"),
    f"{RESOURCES}/terminal": (GONE, [], "x", None, 7),
    f"{RESOURCES}/mounts": (GONE, [], "x", None, 7),
    f"{RESOURCES}/network": (GONE, [], "x", None, 7),
    f"{RESOURCES}/connections": (
        *(GONE, {"a": 1}, [7], [{}], [{"protocol": "tcp"}], [dict.fromkeys(CONNECTION, 7) | {"internal": False}]),
        [CONNECTION | {"internal": "no"}],
    ),
    f"{RESOURCES}/run/user": (
        *(GONE, "root", "0", "0:", ":0", "-1:0", "0:-1", "4294967295:0", "0:99999999999999999999", "0:0;rm", " 0:0"),
        *("00:0", 0, ["0:0"], "\u0661:0"),
    ),
    f"{RESOURCES}/run/through": (
        *(GONE, "/srv", ["relative"], ["../x"], ["/srv/../etc"], ["/srv/"], ["//srv"], [""], ["/a\0b"], [7]),
        ["/no/such/directory/anywhere"],
    ),
    f"{RESOURCES}/run/user_namespace": (GONE, 0),
    f"{RESOURCES}/run/image": ("x", 7, None, "sha256:", "sha256:../../x", f"sha256:{'a' * 64}", f"sha256:{'A' * 64}"),
    f"{RESOURCES}/run/closure": ("fat", 7, None, ["full"], ""),
    f"{RESOURCES}/run/tty": (GONE, "no"),
    f"{RESOURCES}/run/stdin_open": (GONE,),
    f"{RESOURCES}/run/started": (GONE, "yesterday", "", 7, "2026-11-21T03:14:15"),
    f"{RESOURCES}/run/every": (True, -1, 0, "1", 1e300, [1]),
    f"{RESOURCES}/run/keep_last": (0, 1.5, -3),
    f"{RESOURCES}/terminal/kind": (GONE, "telepathy", 7),
    f"{RESOURCES}/terminal/keys": (
        *(GONE, [], ["pipe:[1]"], ["net[1]", "pipe:[2]"], ["pipe:[1]", "pipe:[1]"], ["/etc/shadow", "pipe:[1]"]),
        [1, 2],
    ),
    f"{RESOURCES}/terminal/input": (7, "!!!", LONG),
    f"{RESOURCES}/terminal/unread": (GONE, "!!!", LONG),
    f"{RESOURCES}/terminal/modes": (GONE, "\u20ac", 7),
    f"{RESOURCES}/terminal/pending": ("!!!", 7),
    f"{RESOURCES}/network/lock": (GONE, "iptables", "", 7, None),
    f"{RESOURCES}/mounts/sys": ("../sys", 7, "/sys/../etc", "/a\0b"),
    f"{RESOURCES}/mounts/root": ("/",),
    f"{RESOURCES}/mounts/nothing": ("/x",),
    f"{RESOURCES}/captured/through-0": ([], 7, {}),
    f"{RESOURCES}/captured/through-0/path": ("/", "../x", "/etc", "/a\0b", 7),
    f"{RESOURCES}/captured/through-0/excluded": ("x", [7], None, GONE),
    "body/trees/through-0": (GONE,),
    "body/packs": ([], {"a": 1}, "x"),
    "body/trees": ({}, []),
    "body/attachments": ({}, []),
    f"{SCROLLBACK}/size": (-1, 1 << 47, 1.5, True, "1", None, 10**30, 1e300, PAGE * 1000),
    f"{SCROLLBACK}/extents": (
        *([0, 0], [[0, 0, 1]], [10**9, 0, 1], [-2, 0, 1], [0, -1, 1], [0, 1000, 1], [0, 0, 0], [0, 0, -1]),
        *([0, 0, 2], [-1, 1, 1], [-1, 0, 1, -1, 0, 1], ["0", 0, 1], {"0": 1}, None, [-1, 0, 1 << 60]),
        [True, False, True],
    ),
}
PIECES = (
    *([ZERO, 99, 0, 1, 1], [ZERO, -1, 0, 1, 1], [ZERO, 0, -1, 1, 1], [ZERO, 0, 1 << 24, 1, 1], [ZERO, 0, 0, 0, 1]),
    *([ZERO, 0, 0, 1 << 30, 1], [ZERO, 0, 0, 1, 0], [ZERO, 0, 0, 1, 1 << 19], ["../x", 0, 0, 1, 1], [ZERO, 0, 0, 1]),
    *(7, None),
)
PACKS = (["../../config", 4096], [ZERO, 0], [ZERO, 1 << 25], [ZERO], [ZERO, True], "x")
ENTRIES: tuple[dict[str, object], ...] = (
    *({"path": path} for path in ("../x", "/etc/x", "a//b", "a/../b", "a\0b", 7, "", "a/b", "x" * 5000)),
    *(HARD | {"target": target} for target in ("../../etc/shadow", "/etc/shadow", "nothing", "", "l", 7)),
    *({"path": "d", "type": "door"}, {"path": "d", "mode": 0o10000}, {"path": "d", "mtime": 1.5}),
    *({"path": "d", "uid": (1 << 32) - 1}, {"path": "d", "gid": -1}, {"path": "d", "uid": "root"}),
    *({"path": "d", "xattrs": xattrs} for xattrs in ({"user.a": "!"}, {"user.a\0b": ""}, [1])),
    *(FILE | {"blob": 99}, FILE | {"size": 1}, FILE | {"size": 1 << 70}, FILE | {"offset": 1 << 40}),
    *(FILE | {"extents": extents} for extents in ([[0, 5], [3, 5]], [[-1, 5]], [[0]], 7)),
    FILE | {"extents": [[0, 1 << 62]], "size": 1 << 62},
    *(NODE | {"device": device} for device in ([8], [1 << 13, 0], 1, ["8", 0])),
)


def _appended(key: str, value: object) -> Case:
    return Case(name=f"{key} {value!r:.60}", make=table(lambda body: body[key].append(value)))


def _lost_packs(honest: Honest) -> Hostile:
    head, body = honest.documents()
    body["packs"] = [[f"{number:032x}", length] for number, (_, length) in enumerate(body["packs"])]
    return of_documents(honest, head, body)


_TREE_9 = b"criu-agent tree 9\n"
_AS_INDEX = "body/trees/upper/index"

CASES = [
    *(Case(name=f"{kind} {name!r:.40}", make=renamed(kind, name)) for kind, found in NAMES.items() for name in found),
    *(
        Case(name=f"{where} {'gone' if value is GONE else repr(value):.60}", make=changed(where, value))
        for where, values in VALUES.items()
        for value in values
    ),
    *(_appended("pieces", piece) for piece in PIECES),
    *(_appended("packs", one) for one in PACKS),
    *(Case(name=f"entry {entry!r:.70}", make=index(entry)) for entry in ENTRIES),
    # the table
    Case(name="a piece twice", make=table(lambda body: body["pieces"].append(body["pieces"][0]))),
    Case(name="a pack twice", make=table(lambda body: body["packs"].append(body["packs"][0]))),
    Case(name="packs that are not there", make=_lost_packs),
    Case(
        name="more pieces than may be",
        make=table(lambda body: body.update(pieces=[[name, 0, 0, 1, 1] for name in names((1 << 20) + 1)])),
    ),
    Case(
        name="half a million pieces",
        make=table(lambda body: body["pieces"].extend([name, 0, 0, 1, 1] for name in names(1 << 19))),
        true=True,
    ),
    Case(
        name="three million numbers of extents",
        make=changed(SCROLLBACK, {"size": 1 << 32, "extents": [-1, 0, 1] * (1 << 20)}),
    ),
    Case(
        name="half a million images",
        make=table(
            lambda body: body.update(images={f"{one}.img": {"extents": [], "size": 0} for one in names(500_000)})
        ),
    ),
    # as many bytes as a blob may have
    Case(name="images of 32 TiB of zeros", make=zeros("body/images/core-9.img", 1 << 45)),
    Case(name="a scrollback of 32 TiB of zeros", make=zeros(SCROLLBACK, 1 << 45)),
    Case(name="an index of 32 TiB of zeros", make=zeros(_AS_INDEX, 1 << 45)),
    Case(name="files of 32 TiB of zeros", make=zeros("body/trees/upper/blobs/0", 1 << 45)),
    Case(name="open files of 1 GiB of zeros", make=zeros("body/images/files.img", 1 << 30)),
    Case(name="terminals of 15 MiB of zeros", make=zeros("body/images/tty-info.img", 15 << 20)),
    # JSON
    Case(name="a depth of 100,000", make=with_resources(DEEP)),
    Case(name="a depth of 100,000 in the second line", make=plain(lambda head, _body: head + DEEP + b"\n")),
    Case(name="a million keys", make=plain(lambda _head, body: MILLION + b"\n" + body)),
    Case(name="a million keys in the second line", make=plain(lambda head, _body: head + MILLION + b"\n")),
    Case(name="a key twice", make=plain(lambda head, body: head[:-2] + b', "size": 1}\n' + body)),
    *(
        Case(name=f"{text!r:.40} for a number", make=with_resources(text))
        for text in (b"NaN", b"Infinity", b"-Infinity", b"1" * 5000)
    ),
    Case(name="a float for a number", make=plain(lambda head, body: head[:-2] + b', "sequence": 1e999}\n' + body)),
    Case(name="bytes that are no ASCII", make=with_resources('"ä"'.encode())),
    Case(name="more behind the JSON", make=plain(lambda head, body: head + body[:-1] + b" {}\n")),
    Case(name="one line", make=plain(lambda head, _body: head)),
    Case(name="three lines", make=plain(lambda head, body: head + body + body)),
    Case(name="nothing", make=plain(lambda _head, _body: b"")),
    Case(name="a null", make=plain(lambda _head, body: b"null\n" + body)),
    Case(name="a first line of 5 MiB", make=with_resources(b'"' + b"x" * (5 << 20) + b'"')),
    Case(
        name="a second line of 63 MiB of spaces",
        make=plain(lambda head, body: head + b" " * (63 << 20) + body),
        true=True,
    ),
    # the envelope
    Case(name="a frame that claims 2^62 bytes", make=content(lambda _plain: framed(claims(1 << 62)))),
    Case(name="a frame that claims 64 MiB and has less", make=content(lambda _plain: framed(claims(64 << 20)))),
    Case(name="a frame with a window of 2 GiB", make=content(lambda _plain: framed(claims(1 << 16, window_log=31)))),
    Case(name="a frame of 1 GiB of zeros", make=content(lambda _plain: framed(zstandard.compress(bytes(1 << 30))))),
    Case(name="a frame without its size", make=content(lambda data: framed(unsized(data)))),
    Case(name="a frame of 1 GiB without its size", make=content(lambda _plain: framed(unsized(bytes(1 << 30))))),
    Case(name="two frames", make=content(lambda data: framed(zstandard.compress(data) * 2))),
    Case(name="a frame to be skipped", make=content(lambda data: framed(SKIPPED + zstandard.compress(data)))),
    Case(name="a frame of an old format", make=content(lambda _plain: framed(OLD_MAGIC + bytes(20)))),
    Case(name="a frame behind the content", make=content(lambda data: b"\xff" * 4 + zstandard.compress(data))),
    Case(name="no frame", make=content(lambda _plain: b"")),
    Case(name="an empty frame", make=content(lambda _plain: framed(b""))),
    # pieces
    Case(name="a piece of 1 MiB for 1000 bytes", make=stored(zstandard.compress(bytes(1 << 20)), bytes(1000))),
    Case(name="a piece that makes 256 MiB", make=stored(unsized(bytes(1 << 28)), bytes(100_000))),
    Case(name="a piece with a window of 2 GiB", make=stored(claims(1 << 16, window_log=31), bytes(1 << 16))),
    Case(name="a piece under another's name", make=stored(PACKED, X5000, name=ZERO)),
    Case(name="a piece with more behind it", make=stored(PACKED + b"more", X5000)),
    Case(name="a piece that is no frame", make=stored(X5000, X5000)),
    # the tree
    Case(
        name="a file below a link that leads out", make=index(LINK, FILE | {"path": "l/a", "extents": [], "size": 0})
    ),
    Case(name="a directory below a link that leads out", make=index(LINK, {"path": "l/made"})),
    Case(
        name="a hard link below a link that leads out", make=index(LINK, HARD | {"path": "h", "target": "l/passwd"})
    ),
    Case(name="an entry twice", make=index({"path": "d"}, {"path": "d"})),
    Case(name="an entry in the place of a link", make=index(LINK, {"path": "l"})),
    Case(name="a deep entry", make=index(DEEP + b"\n")),
    Case(name="an index of another version", make=stored(zstandard.compress(_TREE_9), _TREE_9, where=_AS_INDEX)),
    Case(name="data that belong to no file", make=index()),
    # images
    Case(name="open files that end early", make=image("files.img", bytes(8) + b"\xff\0\0\0abc")),
    Case(name="open files that are none", make=image("files.img", bytes(8) + b"\x02\0\0\0\xff\xff")),
    Case(name="terminals that are none", make=image("tty-info.img", bytes(8) + b"\x02\0\0\0\xff\xff")),
    Case(name="terminals that are too short", make=image("tty-info.img", b"abc")),
]

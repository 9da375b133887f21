"""Servers on Node: connections, watches on files, children, and a dev server with hot reload."""

import socket

import pytest

from tests.conftest import NODE_BIN, Agent
from tests.workloads.ways import NAME, Run, Way, Workload, in_every_way

SERVER = """
const http = require('http'), fs = require('fs'), readline = require('readline')
const { spawn } = require('child_process')
const ask = require('./client.js')

let connections = 0
const server = http.createServer((request, response) => {
  request.socket.served = (request.socket.served || 0) + 1
  response.end(`${request.socket.number}:${request.socket.served}`)
})
server.keepAliveTimeout = 0
server.on('connection', socket => { socket.number = ++connections })

const seen = new Set()
fs.mkdirSync('/var/tmp/watched')
for (const directory of ['watched', '/var/tmp/watched']) {
  fs.watch(directory, (_, name) => seen.add(name))
}

server.listen(0, '127.0.0.1', async () => {
  const { port } = server.address()
  const child = spawn(process.execPath, ['child.js', port], { stdio: ['pipe', 'pipe', 'inherit'] })
  child.on('exit', code => { console.error(`the child ended: ${code}`); process.exit(1) })
  const answers = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  for (let n = 1; ; n++) {
    const own = await ask(port)
    child.stdin.write(`${n}\\n`)
    const { value } = await answers.next()
    console.log(`round ${n} own=${own} ${value} connections=${connections} seen=${[...seen].join()}`)
    await new Promise(resolve => setTimeout(resolve, 30))
  }
})
"""
CLIENT = """
const http = require('http')
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
module.exports = port => new Promise((resolve, reject) => {
  http.get({ host: '127.0.0.1', port, agent }, response => {
    let text = ''
    response.on('data', data => { text += data })
    response.on('end', () => resolve(text))
  }).on('error', reject)
})
"""
CHILD = """
const ask = require('./client.js')
let n = 0
require('readline').createInterface({ input: process.stdin }).on('line', async line => {
  n++
  console.log(`heard=${n}:${line} child=${await ask(process.argv[2])}`)
})
"""


def clients_watches_and_child_live(run: Run) -> None:
    # Inotify has one watch in the work directory, which the host writes to, and one in the box's own layer.
    names = {f"host{run.generation}", f"box{run.generation}"}
    (run.agent.workdir / f"watched/host{run.generation}").touch()
    run.agent("exec", NAME, "--", "touch", f"/var/tmp/watched/box{run.generation}")
    run.await_round(lambda last: names <= set(last["seen"].split(",")), f"both watches saw {names}")
    for one in run.rounds():
        n = one.number
        assert one["connections"] == "2", "no client had to connect again"
        assert {one["own"], one["child"]} == {f"1:{n}", f"2:{n}"}
        assert one["heard"] == f"{n}:{n}"


@in_every_way
def test_a_node_server_keeps_its_clients_its_watches_and_its_child(agent: Agent, way: Way) -> None:
    workload = Workload(
        files={"server.js": SERVER, "client.js": CLIENT, "child.js": CHILD, "watched/none": ""},
        argv=("node", "server.js"),
        proof=clients_watches_and_child_live,
        tools=("/usr/bin/touch",),
    )
    way(agent, workload)


# What a browser does: it fetches the page's module, hears of updates on a websocket, and fetches the new one.
BROWSER = """
const http = require('http'), crypto = require('crypto')
const host = '127.0.0.1', port = process.argv[2]

const fetch_version = path => http.get({ host, port, path }, response => {
  let text = ''
  response.on('data', data => { text += data })
  response.on('end', () => console.log(`version ${/version = (\\d+)/.exec(text)[1]}`))
})

function hear(message) {
  console.log(`heard ${message.type}`)
  if (message.type === 'connected') fetch_version('/main.js')
  for (const update of message.updates || []) fetch_version(`${update.path}?t=${update.timestamp}`)
}

function connect() {
  const headers = {
    Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': 13,
    'Sec-WebSocket-Key': crypto.randomBytes(16).toString('base64'), 'Sec-WebSocket-Protocol': 'vite-hmr',
  }
  const request = http.request({ host, port, path: '/', headers })
  request.on('error', () => setTimeout(connect, 100))  // vite does not listen yet
  request.on('upgrade', (_, socket, head) => {
    let got = head
    const frames = data => {  // from a server: opcode, length, and text that is not masked (RFC 6455)
      got = Buffer.concat([got, data])
      while (got.length >= 4) {
        const long = got[1] === 126
        const start = long ? 4 : 2, end = start + (long ? got.readUInt16BE(2) : got[1])
        if (got.length < end) return
        hear(JSON.parse(got.subarray(start, end)))
        got = got.subarray(end)
      }
    }
    socket.on('data', frames)
    socket.on('close', () => { console.error('the websocket was closed'); process.exit(1) })
    frames(Buffer.alloc(0))
  })
  request.end()
}
connect()
"""
PAGE = '<!doctype html><script type="module" src="/main.js"></script>'


def module(version: int) -> str:
    return f"export const version = {version}\nimport.meta.hot.accept()\n"


def a_change_reaches_the_browser(run: Run) -> None:
    version = run.output().count("\nversion ") + 1
    with open(run.agent.workdir / "main.js", "r+") as source:
        source.write(module(version))  # as long as before, so that nobody sees half of it
    run.await_output(rf"^version {version}$")
    heard = [line for line in run.output().splitlines() if line.startswith(("heard", "version"))]
    updates = [text for number in range(2, version + 1) for text in ("heard update", f"version {number}")]
    assert heard == ["heard connected", "version 1", *updates]


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@in_every_way
def test_the_hot_reload_of_a_vite_dev_server_still_works(agent: Agent, way: Way, port: int) -> None:
    vite = f"{NODE_BIN}/vite --host 127.0.0.1 --port {port} --strictPort"
    workload = Workload(
        files={"index.html": PAGE, "main.js": module(1), "browser.js": BROWSER},
        argv=("sh", "-c", f"{vite} & exec node browser.js {port}"),
        ready=r"^version 1$",
        proof=a_change_reaches_the_browser,
    )
    way(agent, workload)
